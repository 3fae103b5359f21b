"""Features of frozen encoders, and of the raw pixels beside them, in one pass over the images."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Num
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from jepa_pipeline.batch import Batch
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.views import RGB
from jepa_pipeline.data.views import normalize
from jepa_pipeline.models.build import AnyEncoder

PIXELS = "pixels"
PIXELS_SIDE = 32
"""Larger images are shrunk to this many pixels a side for the baseline: it would not fit into memory else."""

Kinds = dict[str, Float[Tensor, "_ _"]]
"""Feature vectors of the same images by kind: "last" and "last4", or "pixels"."""


class Features(NamedTuple):
    """What the probes are given: by encoder, the kinds of its feature vectors, in the CPU's memory; and the labels."""

    encoders: dict[str, Kinds]
    labels: Int[Tensor, "S"]
    keys: list[str]


def compute_device() -> torch.device:
    """The CUDA GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()  # and not inference_mode, whose tensors no head could be trained on
def extract(
    encoders: Mapping[str, AnyEncoder],
    loader: DataLoader[Batch],
    samples: int,
    mean: RGB,
    std: RGB,
    precision: Literal["fp32", "bf16"] = "fp32",
    title: str = "features",
) -> Features:
    """Pass all images through all encoders, decoding each image once; "pixels" is added as if it were an encoder.

    Args:
        encoders: by name; they are moved to the device available.
        loader: gives each of `samples` images exactly once.
        samples: how many images there are.
        mean: of the channels, as the encoders were trained with.
        std: of the channels, likewise.
        precision: arithmetic of the encoders; features are kept in fp32.
        title: what the progress bar calls the images.

    Raises:
        UserError: an image has no label.
    """
    device = compute_device()
    for encoder in encoders.values():
        encoder.to(device).eval()
    found: dict[str, Kinds] = {name: {} for name in [*encoders, PIXELS]}
    labels, keys = torch.empty(samples, dtype=torch.long), []
    for batch in track(loader, title, len(loader)):
        rows = slice(len(keys), len(keys) + len(batch.keys))
        if batch.labels is None:
            raise UserError(f"not every sample from {batch.keys[0]} to {batch.keys[-1]} has a label: probes need labelled shards")
        labels[rows] = batch.labels
        keys += batch.keys
        pixels = batch.views[0].to(device, non_blocking=True)
        normalized = normalize(pixels, mean, std)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            for name, encoder in encoders.items():
                store(found[name], rows, samples, pool(encoder, normalized))
        store(found[PIXELS], rows, samples, {PIXELS: flat_pixels(pixels)})
    if len(keys) != samples:
        raise RuntimeError(f"the loader gave {len(keys)} of {samples} samples")
    return Features(found, labels, keys)


def pool(encoder: AnyEncoder, pixels: Float[Tensor, "B C H W"]) -> Kinds:
    """The encoder's pooled features, and the mean tokens of its last four blocks or stages (or all, if there are fewer).

    Those four are concatenated in order of depth. Of an Encoder, the pooled features are the last block's mean tokens.
    """
    pooled, blocks = encoder.pooled_and_intermediates(pixels, last=min(4, encoder.depth))
    return {"last": pooled.float(), "last4": torch.cat([tokens.float().mean(1) for tokens in blocks], 1)}


def flat_pixels(pixels: Num[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
    """The image itself as a vector of values in 0..1."""
    scaled = pixels.float() / 255
    if max(scaled.shape[-2:]) > PIXELS_SIDE:
        scaled = F.interpolate(scaled, size=(PIXELS_SIDE, PIXELS_SIDE), mode="bilinear", antialias=True)
    return scaled.flatten(1)


def store(found: Kinds, rows: slice, samples: int, kinds: Kinds) -> None:
    for kind, vectors in kinds.items():
        if kind not in found:
            found[kind] = torch.empty(samples, vectors.shape[1])
        found[kind][rows] = vectors
