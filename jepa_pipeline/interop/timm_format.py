"""Encoders as timm's local folders, which `timm.create_model("local-dir:FOLDER", pretrained=True)` loads."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import jepa_pipeline._torchvision  # noqa: F401  # before timm
import timm
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.interop.format import PARITY, TOLERANCE, Format, Network, Request
from jepa_pipeline.models.interface import BaseEncoder
from jepa_pipeline.models.weights import EncoderCard, save_tensors
from jepa_pipeline.redaction import redact

LEAST_TIMM = "1.0.16"
"""The first version of timm that loads local folders."""
LOAD = """import timm

model = timm.create_model("local-dir:THIS_FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
features = model(transform(image)[None])"""


def check(request: Request) -> None:
    """Refuse an encoder that no timm architecture and arguments describe.

    Raises:
        UserError: it is a stack, takes clips, or has rotary positions or a small stem.
    """
    if reason := request.encoder.why_not_timm():
        raise UserError(
            f"timm cannot load the encoder of {request.run}, which {reason}: export it with --to onnx, torch or jepa, or load it "
            f"with jepa_pipeline.load_encoder('{request.run}')"
        )


def write(folder: Path, request: Request) -> None:
    """Write model.safetensors and config.json."""
    encoder = request.encoder
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.timm_module().state_dict().items()}
    save_tensors(folder / "model.safetensors", weights)
    (folder / "config.json").write_text(redact(json.dumps(timm_config(encoder, request.card), indent=2)) + "\n")


def timm_config(encoder: BaseEncoder, card: EncoderCard) -> dict[str, Any]:
    """Return the content of timm's config.json: the architecture, its arguments and the preprocessing."""
    config, side = encoder.timm_config(), encoder.config.image_size
    preprocessing = {
        "num_classes": 0,
        "input_size": [3, side, side],
        "fixed_input_size": "img_size" in config["model_args"],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": list(card.mean),
        "std": list(card.std),
    }
    return {"num_classes": 0, "num_features": encoder.width, **config, "pretrained_cfg": preprocessing | config["pretrained_cfg"]}


def outputs(encoder: BaseEncoder, pixels: Tensor) -> dict[str, Tensor]:
    """Return what timm's methods of these names return: tokens "B N D" or feature maps, and pooled features "B D"."""
    return {"forward_features": encoder.forward_features(pixels), "forward": encoder.pooled(pixels)}


def load_timm(folder: Path) -> nn.Module:
    """Return the folder's network as timm itself loads it, in eval mode.

    Raises:
        RuntimeError: a weight is missing, left over or of another shape.
    """
    return timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True).eval()


def load(folder: Path) -> Network:
    """Return the outputs of timm's network; see Format."""
    model = load_timm(folder)
    return lambda pixels: {"forward_features": model.forward_features(pixels), "forward": model(pixels)}  # pyright: ignore[reportCallIssue]


def usage(request: Request, difference: float) -> str:
    """Return how to load it; see Format."""
    return (
        f"```python\n{LOAD}\n```\n\n"
        f"It was written with timm {version('timm')} and loads with {LEAST_TIMM} or newer; before 1.0.29 that takes a torch whose "
        f"torch.load reads safetensors, such as 2.13. `model(...)` is {request.encoder.pooling} of `model.forward_features(...)`. "
        f"`{PARITY}` holds pixels and the outputs of the pretrained encoder for them. Before this folder was written, timm gave "
        f"the same outputs to {TOLERANCE:.0e}."
    )


TIMM = Format("for images, as timm reads it", "timm", check, write, outputs, load, usage)
