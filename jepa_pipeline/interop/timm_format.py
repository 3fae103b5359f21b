"""Encoders as timm's local folders, which `timm.create_model("local-dir:FOLDER", pretrained=True)` loads."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import jepa_pipeline._torchvision  # noqa: F401  # before timm
import timm
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.pixel_format import RGB8, RGB_CHANNELS
from jepa_pipeline.interop.format import PARITY, ExportFormat, ExportRequest, Network
from jepa_pipeline.interop.hf_models import check_model
from jepa_pipeline.interop.preprocessing import takes_photos
from jepa_pipeline.models.backbone import TIMM_ERRORS
from jepa_pipeline.models.interface import BaseEncoder
from jepa_pipeline.models.weights import EncoderCard, save_tensors
from jepa_pipeline.redaction import redact

LEAST_TIMM = "1.0.16"
"""The first version of timm that loads local folders."""
DEFAULT_MAPS = 3
"""Blocks of a transformer whose maps timm returns by default."""
LOAD = """
folder = "."  # the path of this folder
model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
"""
PHOTO = """
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config)
image = Image.open("photo.jpg").convert("RGB")
pixels = transform(image)[None]
"""
NO_PHOTO = """
pixels = torch.rand(1, {channels}, {side}, {side})  # yours: over {levels}, then normalized with mean and std per channel
"""
FEATURES = """
with torch.inference_mode():
    tokens = model.forward_features(pixels)
    features = model(pixels)  # "B D\""""
LARGER = """larger = timm.create_model(f"local-dir:{{folder}}", pretrained=True, img_size={size}).eval()
"""
TOLD = """larger_transform = timm.data.create_transform(**config | {{"input_size": (3, {size}, {size})}})
features = {model}(larger_transform(image)[None])"""
UNTOLD = "features = {model}(torch.rand(1, {channels}, {size}, {size}))"
ANY_SIZE = """flexible = timm.create_model(f"local-dir:{{folder}}", pretrained=True, dynamic_img_size=True).eval()
features = flexible(torch.rand(1, {channels}, {height}, {width}))"""
MAPS = """pyramid = timm.create_model(f"local-dir:{{folder}}", pretrained=True, features_only=True{fewer}).eval()
maps = pyramid(pixels)"""
TRANSFORMERS = """from transformers import AutoImageProcessor, AutoModel

wrapped = AutoModel.from_pretrained(folder).eval()
processor = AutoImageProcessor.from_pretrained(folder)
features = wrapped(**processor(image, return_tensors="pt")).pooler_output"""


def check(request: ExportRequest) -> None:
    """Refuse an encoder that no timm architecture and arguments describe.

    Raises:
        UserError: it is a stack, takes clips, or has rotary positions or a small stem.
    """
    if reason := request.encoder.why_not_timm():
        model, why_not = check_model(request.encoder)
        also = "hf, " if model and not why_not and request.card.pixel_format == RGB8 else ""
        raise UserError(
            f"timm cannot load the encoder of {request.run}, which {reason}: export it with --to {also}onnx, torch or jepa, or "
            f"load it with jepa_pipeline.load_encoder('{request.run}')"
        )


def write(folder: Path, request: ExportRequest) -> None:
    """Write model.safetensors and config.json."""
    encoder = request.encoder
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.timm_module().state_dict().items()}
    save_tensors(folder / "model.safetensors", weights)
    (folder / "config.json").write_text(redact(json.dumps(timm_config(encoder, request.card), indent=2)) + "\n")


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
    """Return the outputs of timm's network; see ExportFormat."""
    model = load_timm(folder)
    return lambda pixels: {"forward_features": model.forward_features(pixels), "forward": model(pixels)}  # pyright: ignore[reportCallIssue]


def usage(request: ExportRequest, difference: float) -> str:
    """Return how to load it, as it is, for other sizes and as a pyramid of maps, and what reads it; see ExportFormat."""
    encoder, config = request.encoder, request.encoder.timm_config()
    photos = takes_photos(request)
    pixels = (
        PHOTO
        if photos
        else NO_PHOTO.format(
            channels=encoder.config.in_channels, side=encoder.config.image_size, levels=request.card.pixel_format.largest
        )
    )
    parts = [
        python("import timm\nimport torch\n" + ("from PIL import Image\n" if photos else "") + LOAD + pixels + FEATURES),
        f"It was written with timm {version('timm')} and loads with {LEAST_TIMM} or newer, if that has `{config['architecture']}`; "
        "before 1.0.29 that takes a torch whose torch.load reads safetensors, such as 2.13. `features` are "
        f"`model.forward_head(tokens, pre_logits=True)`: {encoder.pooling}. `{PARITY}` holds pixels and the outputs of the "
        "pretrained encoder for them, as `forward_features` and `forward`. A separate process recomputed them from this "
        f"folder with two batch sizes; the largest difference is {difference:.1e}."
        + (" The transform gives the pixels of the probes below, to the digit." if photos else ""),
        *other_sizes(request, config["model_args"]),
        *feature_maps(request, config),
        *(["transformers reads this folder too, if timm is installed:\n\n" + python(TRANSFORMERS)] if photos else []),
    ]
    return "\n\n".join(parts)


def python(code: str) -> str:
    return f"```python\n{code.rstrip()}\n```"


def other_sizes(request: ExportRequest, arguments: dict[str, Any]) -> list[str]:
    """Return how the network takes images of another size; `arguments` are those that timm creates it with."""
    encoder, channels = request.encoder.config, len(request.card.mean)
    side, size, by_name, photos = encoder.image_size, 2 * encoder.image_size, "img_size" in arguments, takes_photos(request)
    code = (TOLD if photos else UNTOLD).format(model="larger" if by_name else "model", size=size, channels=channels)
    where = "its position embeddings are interpolated" if by_name else "the network takes them as it is"
    told = f" timm's transform must be told the size, since the configuration says {side} all the same." if photos else ""
    parts = [
        f"For images of another size, such as {size} pixels, {where}.{told}\n\n"
        + python((LARGER.format(size=size) if by_name else "") + code)
    ]
    patch = getattr(encoder, "patch_size", None) or arguments.get("patch_size")
    if patch and (isinstance(encoder, EncoderConfig) or "dynamic_img_size" in arguments):
        any_size = ANY_SIZE.format(channels=channels, height=side, width=side + 2 * patch)
        parts.append(f"With `dynamic_img_size` it takes any multiple of {patch} pixels in each call:\n\n" + python(any_size))
    return parts


def feature_maps(request: ExportRequest, config: dict[str, Any]) -> list[str]:
    """Return how timm gives maps of several blocks or stages, if it can: without weights, since they are not needed to find out."""
    fewer: dict[str, Any] = {"out_indices": request.encoder.depth} if request.encoder.depth < DEFAULT_MAPS else {}
    try:
        with torch.device("meta"):
            network = timm.create_model(config["architecture"], features_only=True, **config["model_args"], **fewer)
    except TIMM_ERRORS:
        return []
    info: Any = network.feature_info
    strides, widths = (", ".join(map(str, values)) for values in (info.reduction(), info.channels()))
    code, depth = MAPS.format(fewer=f", out_indices={request.encoder.depth}" if fewer else ""), request.encoder.depth
    why = f" `out_indices` is needed, since timm asks for the last {DEFAULT_MAPS} blocks otherwise, of which it has {depth}."
    return [f"`features_only` gives maps of strides {strides} and widths {widths}.{why if fewer else ''}\n\n" + python(code)]


TIMM = ExportFormat("for images, as timm reads it", "timm", check, write, outputs, load, usage)
