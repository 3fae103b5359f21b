"""Encoders as folders of this package, which `load_encoder` reads."""

from pathlib import Path

from jepa_pipeline.config.custom_encoder import CustomEncoderConfig
from jepa_pipeline.interop import preprocessing
from jepa_pipeline.interop.format import PARITY, ExportFormat, ExportRequest, Network, encoder_outputs
from jepa_pipeline.models.weights import load_encoder, save_encoder


def check(request: ExportRequest) -> None:
    """Accept any encoder."""


def write(folder: Path, request: ExportRequest) -> None:
    """Write model.safetensors and config.json."""
    save_encoder(folder, request.encoder, request.card)


def load(folder: Path) -> Network:
    """Return the network of a folder.

    Raises:
        UserError: see load_encoder.
    """
    encoder = load_encoder(folder)
    return lambda pixels: encoder_outputs(encoder, pixels)


def usage(request: ExportRequest, difference: float) -> str:
    """Return how to load it; see ExportFormat."""
    photo = "from PIL import Image\n" if preprocessing.takes_photos(request) else ""
    code = f"""import numpy as np
import torch
{photo}
from jepa_pipeline import load_encoder

encoder = load_encoder(".")  # the path of this folder

{preprocessing.code(request)}
with torch.inference_mode():
    features = encoder.pooled(torch.from_numpy(pixels))"""
    own = request.encoder.config.class_path if isinstance(request.encoder.config, CustomEncoderConfig) else None
    needed = f" Loading creates `{own}`, whose module must be importable." if own else ""
    return (
        f"```python\n{code}\n```\n\n"
        f'{preprocessing.words(request)} `encoder.pooled` gives vectors "B D" of width {request.encoder.width}, '
        f'`encoder.intermediates(pixels, 1)[-1]` tokens "B N D". `{PARITY}` holds pixels and these two outputs of the pretrained '
        "encoder, as `pooled` and `tokens`. A separate process recomputed them from this folder with two batch sizes; the largest "
        f"difference is {difference:.1e}.{needed}"
    )


JEPA = ExportFormat("this package's own, for any encoder", "jepa_pipeline", check, write, encoder_outputs, load, usage)
