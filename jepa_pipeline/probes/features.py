"""Pooled features of frozen encoders, and the raw pixels as a baseline, in one pass over the images or videos."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Num
from torch import Tensor
from torch.utils.data import DataLoader

from jepa_pipeline.batch import Batch
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.pixel_format import RGB_CHANNELS, PerChannel
from jepa_pipeline.console import track
from jepa_pipeline.data.views import normalize
from jepa_pipeline.probes.feature_extractors import FeatureExtractor, FeatureSet, feature_names

PIXELS = "pixels"
PIXELS_SIDE = 32
"""Height and width to which larger images of three channels are shrunk for the pixels baseline, to limit memory."""
PIXELS_FRAMES, PIXELS_CLIP_SIDE = 4, 16
"""Evenly spaced frames of a clip, at most, and their height and width: no more values than of an image."""

Precision = Literal["fp32", "bf16"]


class Preprocessing(NamedTuple):
    """Mean and standard deviation of the channels in training, and the precision of the encoders."""

    mean: PerChannel
    std: PerChannel
    precision: Precision = "fp32"


class Features(NamedTuple):
    """Features of a data set in CPU memory: by encoder and kind, with the labels and keys of the samples."""

    encoders: dict[str, FeatureSet]
    labels: Int[Tensor, "S"]
    keys: list[str]


def compute_device() -> torch.device:
    """Return the CUDA GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@torch.no_grad()  # and not inference_mode: heads could not be trained on its tensors
def extract(
    extractors: Mapping[str, FeatureExtractor],
    loader: DataLoader[Batch],
    samples: int,
    preprocessing: Preprocessing,
    title: str = "features",
    first: int = 0,
    still_clips: bool = False,
) -> Features:
    """Return the fp32 features of all samples from all extractors, decoding each sample once, with the pixels as an encoder.

    Args:
        extractors: by name; their encoders are moved to the compute device.
        loader: yields each of `samples` samples exactly once, in order; its views are the clips of a sample.
        samples: number of samples.
        preprocessing: of the pixels.
        title: of the progress bar.
        first: number of the first sample for the extractors.
        still_clips: whether clips are repeated images, of which the pixels baseline takes one frame.

    Raises:
        UserError: a sample has no label.
    """
    device = compute_device()
    for extractor in extractors.values():
        extractor.encoder.to(device).eval()
    encoders: dict[str, FeatureSet] = {name: {} for name in [*feature_names(extractors), PIXELS]}
    labels, keys = torch.empty(samples, dtype=torch.long), []
    for batch in track(loader, title, len(loader)):
        rows = slice(len(keys), len(keys) + len(batch.keys))
        numbers = range(first + rows.start, first + rows.stop)
        labels[rows] = batch_labels(batch)
        keys += batch.keys
        for segment, view in enumerate(batch.views):
            pixels = view.to(device, non_blocking=True)
            normalized = normalize(pixels, preprocessing.mean, preprocessing.std)
            for name, extractor in extractors.items():
                with autocast(device, preprocessing.precision):
                    by_name = extractor.pooled_features(name, normalized, numbers, segment)
                for part, features in by_name.items():
                    add_mean(encoders[part], rows, samples, features, len(batch.views))
            flat = {PIXELS: flatten_pixels(pixels[:, :, 0] if still_clips else pixels)}
            add_mean(encoders[PIXELS], rows, samples, flat, len(batch.views))
    if len(keys) != samples:
        raise RuntimeError(f"the loader yielded {len(keys)} of {samples} samples")
    return Features(encoders, labels, keys)


def batch_labels(batch: Batch) -> Int[Tensor, "B"]:
    if batch.labels is None:
        raise UserError(f"not every sample from {batch.keys[0]} to {batch.keys[-1]} has a label: probes need labeled shards")
    return batch.labels


def flatten_pixels(pixels: Num[Tensor, "B C *T H W"]) -> Float[Tensor, "B D"]:
    """Return the image or clip, shrunk if it is large, as a vector of at most 3072 values in 0..1."""
    side, largest = pixels_side(pixels.shape[1]), 65535 if pixels.dtype == torch.uint16 else 255
    if pixels.ndim == 5:
        frames = torch.linspace(0, pixels.shape[2] - 1, min(PIXELS_FRAMES, pixels.shape[2])).round().long()
        pixels, side = pixels[:, :, frames.to(pixels.device)].flatten(1, 2), PIXELS_CLIP_SIDE
    scaled = pixels.float() / largest
    if max(scaled.shape[-2:]) > side:
        scaled = F.interpolate(scaled, size=(side, side), mode="bilinear", antialias=True)
    return scaled.flatten(1)


def pixels_side(channels: int) -> int:
    """Return the height and width to which images are shrunk for the pixels baseline: smaller where more channels take memory."""
    return PIXELS_SIDE if channels <= RGB_CHANNELS else int(PIXELS_SIDE * (RGB_CHANNELS / channels) ** 0.5)


def add_mean(total: FeatureSet, rows: slice, samples: int, features: FeatureSet, count: int) -> None:
    """Add the features of one of `count` clips to the means over the clips of each sample."""
    for kind, vectors in features.items():
        if kind not in total:
            total[kind] = torch.zeros(samples, vectors.shape[1])
        total[kind][rows] += vectors.cpu() / count
