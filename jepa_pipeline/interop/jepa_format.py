"""Encoders as folders of this package, which `load_encoder` reads."""

from pathlib import Path

from jepa_pipeline.interop.format import PARITY, TOLERANCE, Format, Network, Request, encoder_outputs
from jepa_pipeline.models.weights import load_encoder, save_encoder

LOAD = """from jepa_pipeline.models.weights import load_encoder

encoder = load_encoder("THIS_FOLDER")
features = encoder.pooled(pixels)"""


def check(request: Request) -> None:
    """Accept any encoder."""


def write(folder: Path, request: Request) -> None:
    """Write model.safetensors and config.json."""
    save_encoder(folder, request.encoder, request.card)


def load(folder: Path) -> Network:
    """Return the network of a folder.

    Raises:
        UserError: see load_encoder.
    """
    encoder = load_encoder(folder)
    return lambda pixels: encoder_outputs(encoder, pixels)


def usage(request: Request, difference: float) -> str:
    """Return how to load it; see Format."""
    encoder, card = request.encoder, request.card
    shape = "B 3 T H W" if encoder.config.modality.has_time else "B 3 H W"
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (card.mean, card.std))
    return (
        f"```python\n{LOAD}\n```\n\n"
        f'`pixels` are "{shape}" in 0..1 ({encoder.config.input_shape}), minus the mean ({mean}), over the deviation ({std}), per '
        f'channel. `encoder.pooled` gives vectors "B D" of width {encoder.width}, `encoder.intermediates(pixels, 1)[-1]` tokens '
        f'"B N D". `{PARITY}` holds pixels and these two outputs of the pretrained encoder, as `pooled` and `tokens`. Before '
        f"this folder was written, the encoder loaded from it gave the same outputs to {TOLERANCE:.0e}."
    )


JEPA = Format("this package's own, for any encoder", "jepa_pipeline", check, write, encoder_outputs, load, usage)
