"""Encoders on disk: a folder with `model.safetensors` and a `config.json` that describes them."""

import hashlib
import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from jepa_pipeline.config.encoder_card import CARD, WEIGHTS, EncoderCard, encoder_folder, read_card
from jepa_pipeline.config.errors import UserError, first_line
from jepa_pipeline.distributed import full_tensor, rank
from jepa_pipeline.files import atomic_path, fsync, print_stderr, public_mode, sha256_of
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.models.interface import BaseEncoder
from jepa_pipeline.redaction import redact

Weights = dict[str, torch.Tensor]
REWRITE = "copy both files again, or run the command of its run again, which writes them anew from its last checkpoint"


def gather_weights(encoder: BaseEncoder) -> Weights:
    """Return a copy of all weights in host memory, by their names on disk, on rank 0; an empty dict on other ranks.

    Collective: all ranks must call it.
    """
    weights: Weights = {}
    for name, tensor in encoder.timm_module().state_dict().items():
        full = full_tensor(tensor.detach())
        if rank() == 0:
            weights[name] = full.to("cpu", copy=True).contiguous()
    return weights


def save_encoder(folder: Path, encoder: BaseEncoder, card: EncoderCard) -> None:
    """Write an encoder; see save_weights."""
    save_weights(folder, gather_weights(encoder), card)


def save_weights(folder: Path, weights: Weights, card: EncoderCard) -> None:
    """Write an encoder's weights, and its card with their hash. Both are synced, and each is replaced in one rename.

    Raises:
        OSError: the disk refused it; an older pair is still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Nested, so that neither file is replaced before both are written: a full disk leaves an older pair as it was.
    with atomic_path(folder / CARD, sync=True) as card_path, atomic_path(folder / WEIGHTS, sync=True) as weights_path:
        save_tensors(weights_path, weights)
        card = card.model_copy(update={"sha256": sha256_of(weights_path)})
        card_path.write_text(redact(card.model_dump_json(indent=2)) + "\n")
    fsync(folder.parent)


def save_tensors(path: Path, tensors: Weights) -> None:
    """Write tensors to a file that everyone may read whom the umask lets.

    Raises:
        OSError: the disk refused it. safetensors has an error of its own, which only its text tells from others.
    """
    try:
        with public_mode(path):
            save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def load_encoder(folder: str | Path) -> BaseEncoder:
    """Return the encoder of a run folder or encoder folder, frozen and in eval mode.

    Raises:
        UserError: there is no encoder; or its weights are not those that were written, not finite, or not those that its card
            describes: one is missing, left over or of another shape.
    """
    card, weights = read_weights(folder)
    encoder, path = build_encoder(card.encoder), encoder_folder(folder) / WEIGHTS
    try:
        encoder.timm_module().load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise UserError(f"{path} is damaged or not the encoder that {CARD} describes ({first_line(error)}): {REWRITE}") from None
    encoder.card = card
    return encoder.requires_grad_(False).eval()


def read_weights(folder: str | Path) -> tuple[EncoderCard, Weights]:
    """Return the card and the weights of the encoder in a run folder or encoder folder.

    Raises:
        UserError: there is no encoder, or its weights are not those that were written, or not finite.
    """
    card, path = check_weights(folder), encoder_folder(folder) / WEIGHTS
    if card.sha256 is None:
        print_stderr(f"{path} was written by version {card.version} without a hash, so that damage to its weights would not show")
    weights = load_file(path)
    if broken := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise UserError(
            f"{path} holds NaN or infinite weights (first: {broken[0]}), whose features mean nothing: {REWRITE}, or train it again"
        )
    return card, weights


def check_weights(folder: str | Path) -> EncoderCard:
    """Return the card of the encoder in a run folder or encoder folder after comparing the weights with their hash in it.

    Raises:
        UserError: there is no encoder, or its weights are not what was written.
    """
    card, path = read_card(folder), encoder_folder(folder) / WEIGHTS
    if card.sha256 is None:  # of an earlier version: at least it is whole
        try:
            with safe_open(path, "pt"):
                return card
        except SafetensorError as error:
            raise UserError(
                f"{path} is damaged or not the encoder that {CARD} describes ({first_line(error)}): {REWRITE}"
            ) from None
    if (found := sha256_of(path)) != card.sha256:
        raise UserError(
            f"{path} is not what was written (its SHA-256 is {found[:12]}..., in {CARD} it is {card.sha256[:12]}...): {REWRITE}"
        )
    return card


def hash_weights(encoder: BaseEncoder) -> str:
    """Return the SHA-256 of the names on disk and the bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.timm_module().state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(dtype=torch.uint8).numpy().tobytes())
    return digest.hexdigest()
