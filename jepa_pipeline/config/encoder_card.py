"""The card of an encoder on disk: `config.json` beside its `model.safetensors`. Read without torch."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.section import Section
from jepa_pipeline.config.stack import StackConfig
from jepa_pipeline.config.views import RGB

WEIGHTS, CARD = "model.safetensors", "config.json"


def encoder_type(encoder: Any) -> str:
    """Return the class of an encoder's configuration, so that pydantic reports the mistakes of that class alone."""
    if isinstance(encoder, dict):
        return "BackboneConfig" if "timm" in encoder else "StackConfig" if "above" in encoder else "EncoderConfig"
    known = isinstance(encoder, EncoderConfig | BackboneConfig)
    return type(encoder).__name__ if known else "EncoderConfig"


AnyEncoderConfig = Annotated[
    Annotated[EncoderConfig, Tag("EncoderConfig")]
    | Annotated[StackConfig, Tag("StackConfig")]
    | Annotated[BackboneConfig, Tag("BackboneConfig")],
    Discriminator(encoder_type),
]


class EncoderCard(Section):
    """Architecture, preprocessing and origin of an encoder."""

    encoder: AnyEncoderConfig = Field(description="Its sizes, or its name and arguments in timm.")
    kept: Literal["target", "online", "mixed"] = Field(
        default="target",
        description="Network of the method that was exported: target, the moving average (the default of cards without this "
        "key); online, the trained network; mixed, for a stack with both, depending on the level.",
    )
    mean: RGB = Field(description="Subtracted per channel from pixels scaled to 0..1.")
    std: RGB = Field(description="Divided by per channel.")
    clip: ClipConfig | None = Field(default=None, description="How clips were sampled from videos in training; null for images.")
    begun_from: str | None = Field(
        default=None, description="Checkpoint that training started from, whose steps and samples are not counted; null: none."
    )
    name: str = Field(description="Name of the run that trained it.")
    method: str = Field(description="Method that trained it.")
    step: int = Field(description="Optimizer steps it was trained for.")
    samples: int = Field(description="Samples it was trained on, repetitions included.")
    config_hash: str = Field(description="Hash of the run's configuration.")
    data_hash: str = Field(description="Hash of the manifests of the training shards.")
    version: str = Field(description="Version of jepa_pipeline that wrote it.")


def encoder_folder(folder: str | Path) -> Path:
    """Return the folder that holds the encoder: the given one, or encoder/ in a run folder.

    Raises:
        UserError: there is no encoder.
    """
    folder = Path(folder)
    for candidate in (folder, folder / "encoder"):
        if (candidate / CARD).is_file() and (candidate / WEIGHTS).is_file():
            return candidate
    if not folder.exists():
        raise UserError(f"no folder {folder}: give a run folder, such as runs/NAME")
    raise UserError(f"{folder} holds no encoder (encoder/{WEIGHTS}): it appears with a run's first checkpoint")


def read_card(folder: str | Path) -> EncoderCard:
    """Read the card of the encoder in a run folder or encoder folder.

    Raises:
        UserError: there is no encoder, or its card is invalid.
    """
    path = encoder_folder(folder) / CARD
    try:
        return EncoderCard.model_validate_json(path.read_text())
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path} is not an encoder's card: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
