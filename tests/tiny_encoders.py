"""Tiny encoders of every kind, on disk as a run writes them, and the code of the cards of their exports."""

import contextlib
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.stack import StackConfig
from jepa_pipeline.data.views import center_view, normalize
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.models.weights import EncoderCard, load_encoder, read_card, save_encoder

FLAT = {"image_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
TIME = {"frames": 4, "tubelet_size": 2}
ABOVE = [
    {"stride": {"space": 2}, "coarsening": "conv", "embed_dim": 16, "depth": 1, "num_heads": 2},
    {"stride": {"space": 2}, "embed_dim": 8, "depth": 2, "num_heads": 1},
]
CONFIGS = {
    "images": EncoderConfig.model_validate(FLAT),
    "clips": EncoderConfig.model_validate({**FLAT, **TIME, "attention": "causal"}),
    "rotary": EncoderConfig.model_validate({**FLAT, "positions": "rope"}),
    "backbone": BackboneConfig(timm="resnet18", image_size=32, small_stem=True, args={"channels": (8, 8, 8, 8)}),
    "stack of images": StackConfig.model_validate({**FLAT, "above": ABOVE}),
    "stack of clips": StackConfig.model_validate({**FLAT, **TIME, "above": ABOVE}),
}


def make_run(folder: Path, config, noise: float = 0.02, seed: int = 3, **card) -> Path:
    """Write a run folder with an untrained encoder, whose parameters and statistics are away from the ones and zeros of a start.

    card: values of the encoder's card.
    """
    torch.manual_seed(seed)
    encoder = build_encoder(config)
    if isinstance(config, BackboneConfig):
        encoder.pooled(torch.randn(8, config.in_channels, config.image_size, config.image_size))  # statistics of batch norms
    for parameter in encoder.parameters():
        parameter.data.add_(noise * torch.randn_like(parameter))
    save_encoder(folder / "encoder", encoder, make_card(config, **card))
    (folder / "config.yaml").write_text("name: tiny\nseed: 5\n")
    return folder


def make_card(config, **values) -> EncoderCard:
    """Return the card of an encoder, with these values in place of some."""
    clip = ClipConfig.model_validate({"stride": 2}) if config.modality.has_time else None
    origin = {"name": "tiny", "method": "ijepa", "step": 3, "samples": 48, "version": "0"}
    hashes = {"config_hash": "c" * 12, "data_hash": "d" * 12}
    statistics = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "clip": clip}
    return EncoderCard(encoder=config, **{**origin, **hashes, **statistics, **values})


def run_card(folder: Path, without: str = "nothing is left out") -> dict:
    """The names that are left after the Python blocks of a card are run in its folder, but those with a word; after each block,
    `features` are kept in a list."""
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 91, 3), np.uint8))
    photo.save(folder / "photo.jpg", quality=95)
    scope, features = {}, []
    with contextlib.chdir(folder):
        for code in re.findall(r"^```python\n(.*?)^```", (folder / "README.md").read_text(), re.DOTALL | re.MULTILINE):
            if without not in code:
                exec(code, scope)
                features.append(scope.get("features"))
    return {**scope, "all features": features}


@torch.inference_mode()
def features_of_photo(run: Path, folder: Path) -> torch.Tensor:
    """The pooled features of that photo, as a probe of the run would compute them."""
    encoder, card = load_encoder(run), read_card(run)
    with Image.open(folder / "photo.jpg") as photo:
        pixels = torch.tensor(center_view(photo.convert("RGB"), encoder.config.image_size))[None]
    return encoder.pooled(normalize(pixels, card.mean, card.std))
