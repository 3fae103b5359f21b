"""The card of an encoder on disk: `config.json` beside its `model.safetensors`. Read without torch."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.encoders import AnyEncoderConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.pixel_format import Bits, Deviations, PerChannel, PixelFormat
from jepa_pipeline.config.removed import upgrade_saved
from jepa_pipeline.config.run_path import give_run
from jepa_pipeline.config.section import Section

WEIGHTS, CARD = "model.safetensors", "config.json"


class Source(Section):
    """The published weights that an encoder was imported from."""

    path: str = Field(
        description="File or folder, without the folders above it, or name on a hub, such as hf:facebook/ijepa_vith14_1k."
    )
    revision: str | None = Field(default=None, description="Revision on the hub; null: a file or folder of this machine.")
    sha256: str = Field(description="SHA-256 of the file of weights, in hex; of several, of their names and hashes.")
    family: str = Field(description="Layout of the weights: the value of --as.")
    network: str = Field(description="Which network of the file it is, such as target_encoder; model, if there is only one.")
    dtype: str = Field(description="Type of the weights in the file, such as float16; here they are float32.")
    license: str = Field(default="unknown", description="License of the weights, as the user said.")
    notes: tuple[str, ...] = Field(default=(), description="What its user must know, such as which tokens are pooled.")


class EncoderCard(Section):
    """The sizes, the preprocessing and the origin of a saved encoder."""

    encoder: AnyEncoderConfig = Field(description="Its sizes, or its name and arguments in timm.")
    kept: Literal["target", "online", "mixed"] = Field(
        default="target",
        description="Which network of the method it is: target, the exponential moving average (also in cards without this "
        "key); online, the network that was trained; mixed, a stack whose levels differ.",
    )
    mean: PerChannel = Field(description="Subtracted per channel from pixels scaled to 0..1.")
    std: Deviations = Field(description="Divisor per channel.")
    bits: Bits = Field(default=8, description="Bits per channel of the decoded images that it was trained on.")
    clip: ClipConfig | None = Field(default=None, description="Frames of a video that made a training clip; null: images.")
    begun_from: str | None = Field(
        default=None,
        description="Checkpoint or published weights that its training started from, whose steps and samples are not counted here; "
        "null: none known.",
    )
    source: Source | None = Field(default=None, description="What it was imported from; null: it was trained here.")
    name: str = Field(description="Name of the run.")
    method: str = Field(description="Method that trained it.")
    step: int = Field(description="Optimizer steps of training.")
    samples: int = Field(description="Training samples seen.")
    config_hash: str = Field(description="Hash of the run's configuration.")
    data_hash: str = Field(description="Hash of the training shards' manifest.")
    version: str = Field(description="Version of jepa_pipeline that wrote it.")
    sha256: str | None = Field(default=None, description="SHA-256 of the weights' file, in hex; null in cards of earlier versions.")

    @field_validator("clip", mode="before")
    @classmethod
    def upgrade_clip(cls, clip: Any) -> Any:
        return upgrade_saved(clip, "views.clip.") if isinstance(clip, dict) else clip

    @model_validator(mode="after")
    def check_channels(self) -> Self:
        channels = self.encoder.in_channels
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}, but encoder.in_channels is {channels}")
        return self

    @property
    def pixel_format(self) -> PixelFormat:
        """Return the form in which images are decoded for it."""
        return PixelFormat(self.encoder.in_channels, self.bits)


def holds_encoder(folder: Path) -> bool:
    """Return whether a folder holds an encoder itself, not in a folder of its own as a run does."""
    return (folder / CARD).is_file() and (folder / WEIGHTS).is_file()


def encoder_folder(folder: str | Path) -> Path:
    """Return the folder of an encoder, given that folder or the run folder around it.

    Raises:
        UserError: there is no encoder.
    """
    folder = Path(folder)
    for candidate in (folder, folder / "encoder"):
        if holds_encoder(candidate):
            return candidate
    if not folder.exists():
        raise UserError(f"no folder {folder}: {give_run(folder)}")
    if folder.is_file():
        raise UserError(
            f"{folder} is a file and no encoder: {give_run(folder)}, or make an encoder of published weights with `jepa import`"
        )
    raise UserError(
        f"{folder} holds no encoder (encoder/{WEIGHTS}): a run writes it with its first checkpoint, and anew when the command of a "
        "run that has lost it is run again"
    )


def read_card(folder: str | Path) -> EncoderCard:
    """Return the card of the encoder in a run folder or encoder folder.

    Raises:
        UserError: there is no encoder, or its card is invalid.
    """
    path = encoder_folder(folder) / CARD
    try:
        return EncoderCard.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{path} is not an encoder's card ({'.'.join(map(str, first['loc']))}: {first['msg']}): if others "
            "published the weights, `jepa import` makes an encoder of them"
        ) from None
