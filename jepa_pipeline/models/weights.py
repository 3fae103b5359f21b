"""Encoders on disk: a folder with `model.safetensors` and a `config.json` that says what they are."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Discriminator, Field, Tag, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.section import Section
from jepa_pipeline.config.stack import StackConfig
from jepa_pipeline.config.views import RGB
from jepa_pipeline.distributed import rank, whole
from jepa_pipeline.files import atomic_path
from jepa_pipeline.models.backbone import Backbone
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.models.interface import BaseEncoder

WEIGHTS, CARD = "model.safetensors", "config.json"


def encoder_kind(encoder: Any) -> str:
    """Of which kind an encoder's configuration is, so that what is wrong with it is said of that one alone."""
    if isinstance(encoder, dict):
        return "BackboneConfig" if "timm" in encoder else "StackConfig" if "above" in encoder else "EncoderConfig"
    known = isinstance(encoder, EncoderConfig | BackboneConfig)
    return type(encoder).__name__ if known else "EncoderConfig"


AnyEncoderConfig = Annotated[
    Annotated[EncoderConfig, Tag("EncoderConfig")]
    | Annotated[StackConfig, Tag("StackConfig")]
    | Annotated[BackboneConfig, Tag("BackboneConfig")],
    Discriminator(encoder_kind),
]


class EncoderCard(Section):
    """What an encoder is, what it wants to be given and where it comes from."""

    encoder: AnyEncoderConfig = Field(description="Its sizes, or its name and arguments in timm.")
    kept: Literal["target", "online", "mixed"] = Field(
        default="target",
        description="Which network of the method it is: target, the slow average (as in all cards without this key); "
        "online, the one that was trained itself; mixed, of a stack, at some levels the one and at some the other.",
    )
    mean: RGB = Field(description="To subtract per channel from pixels scaled to 0..1.")
    std: RGB = Field(description="To divide by per channel.")
    clip: ClipConfig | None = Field(default=None, description="Which frames of a video it was trained on; null for images.")
    begun_from: str | None = Field(
        default=None, description="The checkpoint its run began with, whose steps and samples are not counted here; null: none."
    )
    name: str = Field(description="The run it comes from.")
    method: str = Field(description="The method that trained it.")
    step: int = Field(description="Optimizer steps it was trained for.")
    samples: int = Field(description="Samples it has seen.")
    config_hash: str = Field(description="Hash of the run's configuration.")
    data_hash: str = Field(description="Hash of the training shards' manifest.")
    version: str = Field(description="Version of jepa_pipeline that wrote it.")


Weights = dict[str, torch.Tensor]


def gather_weights(encoder: BaseEncoder) -> Weights:
    """A copy of all of an encoder's weights in the host's memory, by their names on disk. Of several processes all must ask, and
    the first is given it.
    """
    weights: Weights = {}
    for name, tensor in timm_named(encoder).state_dict().items():
        together = whole(tensor.detach())
        if rank() == 0:
            weights[name] = together.to("cpu", copy=True).contiguous()
    return weights


def save_encoder(folder: Path, encoder: BaseEncoder, card: EncoderCard) -> None:
    """Write an encoder; see save_weights."""
    save_weights(folder, gather_weights(encoder), card)


def save_weights(folder: Path, weights: Weights, card: EncoderCard) -> None:
    """Write an encoder's weights. Each file is replaced whole, so that a reader never meets half of one.

    Raises:
        UserError: the disk refused it.
    """
    try:
        write_files(folder, weights, card)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"encoder {folder} could not be written ({error}): make room there, then run the same command again"
        ) from None


def write_files(folder: Path, weights: Weights, card: EncoderCard) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Nested, so that neither file is replaced before both are written: a full disk leaves an older pair as it was.
    with atomic_path(folder / CARD) as card_path, atomic_path(folder / WEIGHTS) as weights_path:
        save_file(weights, weights_path, metadata={"format": "pt"})
        card_path.write_text(card.model_dump_json(indent=2) + "\n")


def timm_named(network: nn.Module) -> nn.Module:
    """Of an encoder, the network whose state has the names it has in timm, which are those on disk."""
    return network.network if isinstance(network, Backbone) else network


def encoder_folder(folder: str | Path) -> Path:
    """The folder of the encoder itself, given that or the run around it.

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
    """What the encoder in a run folder or encoder folder is."""
    path = encoder_folder(folder) / CARD
    try:
        return EncoderCard.model_validate_json(path.read_text())
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path} is not an encoder's card: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def load_encoder(folder: str | Path) -> BaseEncoder:
    """The encoder of a run folder or encoder folder, frozen and in eval mode; every weight must match."""
    encoder = build_encoder(read_card(folder).encoder)
    path = encoder_folder(folder) / WEIGHTS
    try:
        timm_named(encoder).load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged or not the encoder its {CARD} describes ({reason}): copy or train it again") from None
    return encoder.requires_grad_(False).eval()


def hash_weights(network: nn.Module) -> str:
    """SHA-256 over the names, an encoder's being those on disk, and bytes of everything in a network's state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(timm_named(network).state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(dtype=torch.uint8).numpy().tobytes())
    return digest.hexdigest()
