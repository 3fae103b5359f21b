"""Values of the JSON files beside published weights, each checked before it is used."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, FiniteFloat, TypeAdapter, ValidationError

from jepa_pipeline.config.encoder_card import CARD
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.pixel_format import PixelFormat
from jepa_pipeline.interop.published import Published
from jepa_pipeline.interop.reading import PREPROCESSORS


def square(value: Any) -> Any:
    """Return the side of a square that is given by two equal numbers."""
    return value[0] if isinstance(value, list) and len(value) == 2 and value[0] == value[1] else value


Count = Annotated[int, Field(ge=1)]
Side = Annotated[Count, BeforeValidator(square)]
PositiveNumber = Annotated[FiniteFloat, Field(gt=0)]
Numbers = Annotated[list[FiniteFloat], Field(min_length=1)]
Deviations = Annotated[list[PositiveNumber], Field(min_length=1)]
KINDS: dict[str, Any] = {
    "num_attention_heads": Count,
    "num_hidden_layers": Count,
    "image_size": Side,
    "crop_size": Side,
    "frames_per_clip": Count,
    "layer_norm_eps": PositiveNumber,
    "rope_theta": PositiveNumber,
    "hidden_act": str,
    "qkv_bias": bool,
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
        shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}..."
        raise UserError(f"{key} in {file} is {shown}, but it {text}: correct it, or copy the file again") from None


def checked_settings(published: Published, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of config.json, with those that it may leave out.

    Raises:
        UserError: a value that is read is of another kind.
    """
    given = {key: value for key, value in published.config.items() if value is not None}
    read = KINDS.keys() - ({"image_size"} - defaults.keys())  # else the positions tell it
    checked = {key: checked_value(KINDS[key], given[key], key, f"{published.path}/{CARD}") for key in sorted(read & given.keys())}
    return {**defaults, **given, **checked}


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
