"""Values of the JSON files beside published weights, each checked before it is used."""

import json
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, FiniteFloat, TypeAdapter, ValidationError

from jepa_pipeline.config.encoder_card import CARD
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.grid import MAX_FRAMES, MAX_SIDE
from jepa_pipeline.config.pixel_format import PixelFormat
from jepa_pipeline.interop.published import Published
from jepa_pipeline.interop.reading import PREPROCESSORS


def square(value: Any) -> Any:
    """Return the side of a square that is given by two equal numbers."""
    return value[0] if isinstance(value, list) and len(value) == 2 and value[0] == value[1] else value


Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE), BeforeValidator(square)]
PositiveNumber = Annotated[FiniteFloat, Field(gt=0)]
Numbers = Annotated[list[FiniteFloat], Field(min_length=1)]
Deviations = Annotated[list[PositiveNumber], Field(min_length=1)]
KINDS: dict[str, Any] = {
    "num_attention_heads": Count,
    "num_hidden_layers": Count,
    "hidden_size": Count,
    "intermediate_size": Count,
    "mlp_ratio": PositiveNumber,
    "num_channels": Count,
    "in_chans": Count,
    "num_register_tokens": Annotated[int, Field(ge=0)],
    "image_size": Side,
    "patch_size": Side,
    "tubelet_size": Count,
    "crop_size": Side,
    "frames_per_clip": Annotated[int, Field(ge=1, le=MAX_FRAMES)],
    "layer_norm_eps": PositiveNumber,
    "rope_theta": PositiveNumber,
    "hidden_act": str,
    "qkv_bias": bool,
    "query_bias": bool,
    "value_bias": bool,
    "proj_bias": bool,
    "mlp_bias": bool,
    "use_swiglu_ffn": bool,
    "use_gated_mlp": bool,
}
"""Kinds of the values in config.json of transformers that an import reads."""


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def checked_value(kind: Any, value: Any, key: str, file: str) -> Any:
    """Return a value of a JSON file.

    Raises:
        UserError: it is of another kind.
    """
    try:
        return adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        text = error.errors()[0]["msg"].removeprefix("Input ")
        written = json.dumps(value, default=repr)  # as in the file: null and not None
        shown = written if len(written) <= 60 else f"{written[:60]}..."
        raise UserError(f"{key} in {file} is {shown}, but it {text}: correct it, or copy the file again") from None


def checked_settings(published: Published, keys: Collection[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of config.json that are read, with those that it may leave out.

    Args:
        published: the folder.
        keys: that are read if they are there; others are not of this network.
        defaults: values of keys that are read, where they are not there.

    Raises:
        UserError: a value is of another kind; null is of none.
    """
    file, config = f"{published.path}/{CARD}", published.config
    read = [key for key in KINDS if key in config and (key in keys or key in defaults)]
    return {**defaults, **{key: checked_value(KINDS[key], config[key], key, file) for key in read}}


class Preprocessing(NamedTuple):
    """The preparation of pixels in preprocessor_config.json.

    Attributes:
        mean: per channel; None: it is not said.
        std: per channel; None: it is not said.
        scale: factor of pixels in 0..1 before mean and std.
    """

    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    scale: float

    def fold(self, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the mean and std that give the same from pixels in 0..1."""
        if abs(self.scale - 1) < 1e-6:
            return mean, std
        return tuple(value / self.scale for value in mean), tuple(value / self.scale for value in std)


def read_preprocessing(published: Published, channels: int) -> Preprocessing:
    """Return what the folder says of pixels: one number counts for every channel, as in transformers.

    Raises:
        UserError: a value is of another kind, or only one of mean and std is there.
    """
    file = next((path for name in PREPROCESSORS if (path := Path(published.path) / name).is_file()), Path(published.path))

    def read(kind: Any, key: str, default: Any = None) -> Any:
        value = published.preprocessor.get(key)
        return default if value is None else checked_value(kind, value, key, str(file))

    scale, levels = 1.0, PixelFormat(channels, published.given.bits).largest
    if not read(bool, "do_rescale", True):
        scale = float(levels)
    elif (factor := read(PositiveNumber, "rescale_factor")) is not None:
        scale = factor * levels
    if not read(bool, "do_normalize", True):
        return Preprocessing((0.0,) * channels, (1.0,) * channels, scale)
    found: dict[str, tuple[float, ...] | None] = {}
    for key, one, several in (("image_mean", FiniteFloat, Numbers), ("image_std", PositiveNumber, Deviations)):
        if isinstance(published.preprocessor.get(key), list):
            found[key] = tuple(read(several, key))
        else:
            found[key] = None if (value := read(one, key)) is None else (value,) * channels
    mean, std = found["image_mean"], found["image_std"]
    if (mean is None) != (std is None) and not (published.given.mean and published.given.std):
        there, missing = ("image_mean", "image_std") if std is None else ("image_std", "image_mean")
        raise UserError(f"{file} has {there}, but no {missing}: give mean=[...] and std=[...] of the training")
    return Preprocessing(mean, std, scale)
