"""Encoders as timm's local folders, which `timm.create_model("local-dir:FOLDER", pretrained=True)` loads."""

import json
from pathlib import Path
from typing import Any

from torch import nn

import jepa_pipeline._torchvision  # noqa: F401  # before timm
import timm
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.pixel_format import RGB_CHANNELS
from jepa_pipeline.models.interface import BaseEncoder
from jepa_pipeline.models.weights import EncoderCard, save_tensors
from jepa_pipeline.redaction import redact


def check_exportable(encoder: BaseEncoder, run: str | Path) -> None:
    """Refuse an encoder that no timm architecture and arguments describe.

    Raises:
        UserError: it is a stack, takes clips, or has rotary positions or a small stem.
    """
    if reason := encoder.why_not_timm():
        raise UserError(
            f"timm cannot load the encoder of {run}, which {reason}: export it with --to jepa, or load it with "
            f"jepa_pipeline.load_encoder('{run}')"
        )


def write_timm(folder: Path, encoder: BaseEncoder, card: EncoderCard) -> None:
    """Write model.safetensors and config.json."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.timm_module().state_dict().items()}
    save_tensors(folder / "model.safetensors", weights)
    (folder / "config.json").write_text(redact(json.dumps(timm_config(encoder, card), indent=2)) + "\n")


def timm_config(encoder: BaseEncoder, card: EncoderCard) -> dict[str, Any]:
    """Return the content of timm's config.json: the architecture, its arguments and the preprocessing."""
    config, side, channels = encoder.timm_config(), encoder.config.image_size, encoder.config.in_channels
    config["model_args"] = config["model_args"] | {"in_chans": channels}
    if channels != RGB_CHANNELS:
        # timm adapts a first layer of three channels to in_chans, and one of other numbers it leaves untrained without an error
        config["pretrained_cfg"] = config["pretrained_cfg"] | {"first_conv": None}
    preprocessing = {
        "num_classes": 0,
        "input_size": [channels, side, side],
        "fixed_input_size": "img_size" in config["model_args"],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": list(card.mean),
        "std": list(card.std),
    }
    return {"num_classes": 0, "num_features": encoder.width, **config, "pretrained_cfg": preprocessing | config["pretrained_cfg"]}


def load_timm(folder: Path) -> nn.Module:
    """Return the folder's network as timm itself loads it, in eval mode.

    Raises:
        RuntimeError: a weight is missing, left over or of another shape.
    """
    return timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True).eval()
