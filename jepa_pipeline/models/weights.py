"""Encoders on disk: a folder with `model.safetensors` and a `config.json` that describes them."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from jepa_pipeline.config.encoder_card import CARD, WEIGHTS, EncoderCard, encoder_folder, read_card
from jepa_pipeline.config.errors import UserError, first_line
from jepa_pipeline.distributed import full_tensor, rank
from jepa_pipeline.files import atomic_path, public_mode
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.models.interface import BaseEncoder
from jepa_pipeline.redaction import redact

Weights = dict[str, torch.Tensor]


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
    """Write an encoder's weights and card; each file is replaced atomically.

    Raises:
        UserError: writing failed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Nested, so that neither file is replaced before both are written: a full disk leaves an older pair as it was.
        with atomic_path(folder / CARD) as card_path, atomic_path(folder / WEIGHTS) as weights_path:
            with public_mode(weights_path):
                save_file(weights, weights_path, metadata={"format": "pt"})
            card_path.write_text(redact(card.model_dump_json(indent=2)) + "\n")
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write encoder {folder} ({error}): free some space, then run the same command again") from None


def load_encoder(folder: str | Path) -> BaseEncoder:
    """Return the encoder of a run folder or encoder folder, frozen and in eval mode.

    Raises:
        UserError: there is no encoder, or a weight is missing, left over or of another shape.
    """
    encoder = build_encoder(read_card(folder).encoder)
    path = encoder_folder(folder) / WEIGHTS
    try:
        encoder.timm_module().load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError) as error:
        reason = first_line(error)
        raise UserError(f"{path} is damaged or not the encoder that {CARD} describes ({reason}): copy or train it again") from None
    return encoder.requires_grad_(False).eval()


def hash_weights(encoder: BaseEncoder) -> str:
    """Return the SHA-256 of the names on disk and the bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.timm_module().state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(dtype=torch.uint8).numpy().tobytes())
    return digest.hexdigest()
