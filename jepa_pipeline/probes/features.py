"""Features of frozen encoders, and of the raw pixels beside them, in one pass over the images or videos."""

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
from jepa_pipeline.probes.feature_extractors import Kinds, Reader, names_of

PIXELS = "pixels"
PIXELS_SIDE = 32
"""Larger images are shrunk to this many pixels a side for the baseline: it would not fit into memory else."""
PIXELS_FRAMES, PIXELS_CLIP_SIDE = 4, 16
"""Of a clip, so many frames at most, evenly spaced, shrunk to so many pixels a side: no more values than an image has."""

Precision = Literal["fp32", "bf16"]


class Lens(NamedTuple):
    """How pixels come before encoders: mean and std of the channels as they were trained with, and their arithmetic."""

    mean: RGB
    std: RGB
    precision: Precision = "fp32"


class Features(NamedTuple):
    """What the probes are given: by encoder, the kinds of its feature vectors, in the CPU's memory; and the labels."""

    encoders: dict[str, Kinds]
    labels: Int[Tensor, "S"]
    keys: list[str]


def compute_device() -> torch.device:
    """The CUDA GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@torch.no_grad()  # and not inference_mode, whose tensors no head could be trained on
def extract(
    readers: Mapping[str, Reader],
    loader: DataLoader[Batch],
    samples: int,
    lens: Lens,
    title: str = "features",
    first: int = 0,
    stills: bool = False,
) -> Features:
    """Pass all samples through all encoders, decoding each once; "pixels" is added as if it were an encoder. Features are fp32.

    Args:
        readers: by name, of stacks the names of their levels count; their encoders are moved to the device available.
        loader: gives each of `samples` samples exactly once, in order; its views are a sample's clips.
        samples: how many there are.
        lens: how the encoders see pixels.
        title: what the progress bar calls the samples.
        first: what readers call the first one.
        stills: whether clips are images that stand still, of which one frame is all there is to the pixels.

    Raises:
        UserError: a sample has no label.
    """
    device = compute_device()
    for reader in readers.values():
        reader.encoder.to(device).eval()
    found: dict[str, Kinds] = {name: {} for name in [*names_of(readers), PIXELS]}
    labels, keys = torch.empty(samples, dtype=torch.long), []
    for batch in track(loader, title, len(loader)):
        rows = slice(len(keys), len(keys) + len(batch.keys))
        numbers = range(first + rows.start, first + rows.stop)
        labels[rows] = labels_of(batch)
        keys += batch.keys
        for segment, view in enumerate(batch.views):
            pixels = view.to(device, non_blocking=True)
            normalized = normalize(pixels, lens.mean, lens.std)
            for name, reader in readers.items():
                with autocast(device, lens.precision):
                    vectors = reader.vectors(name, normalized, numbers, segment)
                for part, kinds in vectors.items():
                    add_share(found[part], rows, samples, kinds, len(batch.views))
            add_share(found[PIXELS], rows, samples, {PIXELS: flat_pixels(pixels[:, :, 0] if stills else pixels)}, len(batch.views))
    if len(keys) != samples:
        raise RuntimeError(f"the loader gave {len(keys)} of {samples} samples")
    return Features(found, labels, keys)


def labels_of(batch: Batch) -> Int[Tensor, "B"]:
    if batch.labels is None:
        raise UserError(f"not every sample from {batch.keys[0]} to {batch.keys[-1]} has a label: probes need labeled shards")
    return batch.labels


def flat_pixels(pixels: Num[Tensor, "B C *T H W"]) -> Float[Tensor, "B D"]:
    """The image or clip itself as a vector of values in 0..1, of PIXELS_SIDE² * 3 = 3072 at most."""
    side = PIXELS_SIDE
    if pixels.ndim == 5:
        frames = torch.linspace(0, pixels.shape[2] - 1, min(PIXELS_FRAMES, pixels.shape[2])).round().long()
        pixels, side = pixels[:, :, frames.to(pixels.device)].flatten(1, 2), PIXELS_CLIP_SIDE
    scaled = pixels.float() / 255
    if max(scaled.shape[-2:]) > side:
        scaled = F.interpolate(scaled, size=(side, side), mode="bilinear", antialias=True)
    return scaled.flatten(1)


def add_share(found: Kinds, rows: slice, samples: int, kinds: Kinds, shares: int) -> None:
    """Add one clip's part to the mean over a sample's clips."""
    for kind, vectors in kinds.items():
        if kind not in found:
            found[kind] = torch.zeros(samples, vectors.shape[1])
        found[kind][rows] += vectors.cpu() / shares
