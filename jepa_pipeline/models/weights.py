"""Encoders on disk: a folder with `model.safetensors` and a `config.json` that says what they are."""

import hashlib
from pathlib import Path

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.section import Section
from jepa_pipeline.models.encoder import Encoder

WEIGHTS, CARD = "model.safetensors", "config.json"
RGB = tuple[float, float, float]


class EncoderCard(Section):
    """What an encoder is, what it wants to be given and where it comes from."""

    encoder: EncoderConfig = Field(description="Its sizes.")
    mean: RGB = Field(description="To subtract per channel from pixels scaled to 0..1.")
    std: RGB = Field(description="To divide by per channel.")
    name: str = Field(description="The run it comes from.")
    method: str = Field(description="The method that trained it.")
    step: int = Field(description="Optimiser steps it was trained for.")
    samples: int = Field(description="Samples it has seen.")
    config_hash: str = Field(description="Hash of the run's configuration.")
    data_hash: str = Field(description="Hash of the training shards' manifest.")
    version: str = Field(description="Version of jepa_pipeline that wrote it.")


def save_encoder(folder: Path, encoder: Encoder, card: EncoderCard) -> None:
    """Write an encoder. Each file is replaced whole, so that a reader never meets half of one.

    Raises:
        UserError: the disk refused it.
    """
    try:
        write_encoder(folder, encoder, card)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"encoder {folder} could not be written ({error}): make room there, then run the same command again"
        ) from None


def write_encoder(folder: Path, encoder: Encoder, card: EncoderCard) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(weights, folder / f".{WEIGHTS}", metadata={"format": "pt"})
    (folder / f".{CARD}").write_text(card.model_dump_json(indent=2) + "\n")
    for name in (WEIGHTS, CARD):
        (folder / f".{name}").replace(folder / name)


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


def load_encoder(folder: str | Path) -> Encoder:
    """The encoder of a run folder or encoder folder, frozen and in eval mode; every weight must match."""
    encoder = Encoder(read_card(folder).encoder)
    path = encoder_folder(folder) / WEIGHTS
    try:
        encoder.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged or not the encoder its {CARD} describes ({reason}): copy or train it again") from None
    return encoder.requires_grad_(False).eval()


def hash_weights(network: nn.Module) -> str:
    """SHA-256 over the names and bytes of everything in a network's state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(dtype=torch.uint8).numpy().tobytes())
    return digest.hexdigest()
