"""Features of a frozen encoder, on clips as they are or modified so that it cannot know the order of frames."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from jepa_pipeline.config.level import Level
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.models.interface import BaseEncoder

FrameMode = Literal["in_order", "apart", "shuffled"]
FeatureSet = dict[str, Float[Tensor, "_ _"]]
"""Feature vectors of the same samples by kind: "last" and "last4", or "pixels"."""
LAST_BLOCKS = 4
"""Blocks or stages whose mean tokens are "last4", or all if there are fewer."""


class FeatureExtractor(NamedTuple):
    """A frozen video or image encoder, and how clips are modified.

    Attributes:
        encoder: on the device of the pixels.
        frames: in_order: unmodified; apart: each frame by itself, as an image, so that no token depends on two of them; shuffled:
            in a random order per clip.
        seed: of these orders.
        levels: the levels of a stack that are extracted, all in one pass, by the names of their features; None: the encoder's own
            features.
    """

    encoder: BaseEncoder
    frames: FrameMode = "in_order"
    seed: int = 0
    levels: Mapping[str, Level] | None = None

    def pooled_features(
        self, name: str, pixels: Float[Tensor, "B C *T H W"], numbers: Sequence[int], segment: int
    ) -> dict[str, dict[str, Float[Tensor, "B _"]]]:
        """Return the pooled features, "last", and the concatenated mean tokens of the last four blocks, "last4", by name.

        Args:
            name: of the features, unless levels have names.
            pixels: normalized.
            numbers: of the samples, unique over training and test set.
            segment: number of the clip within each sample.
        """
        clips, samples = self.modify(pixels, numbers, segment), len(pixels)
        if self.levels is None:
            pooled, blocks = self.encoder.pooled_and_intermediates(clips, min(LAST_BLOCKS, self.encoder.depth))
            return {name: mean_features(pooled, blocks, samples)}
        by_level = [
            mean_features(blocks[-1].mean(1), blocks, samples) for blocks in self.encoder.level_intermediates(clips, LAST_BLOCKS)
        ]
        every = {kind: torch.cat([features[kind] for features in by_level], 1) for kind in by_level[0]}
        return {part: every if level == "all" else by_level[level - 1] for part, level in self.levels.items()}

    def last_tokens(
        self, name: str, pixels: Float[Tensor, "B C *T H W"], numbers: Sequence[int], segment: int
    ) -> dict[str, Float[Tensor, "B _ _"]]:
        """Return the last tokens by name, those of separate frames concatenated; the arguments are those of pooled_features."""
        clips = self.modify(pixels, numbers, segment)
        if self.levels is None:
            tokens = {name: self.encoder.intermediates(clips, 1)[-1]}
        else:
            by_level = [blocks[-1] for blocks in self.encoder.level_intermediates(clips, 1)]
            tokens = {
                part: self.encoder.concat_levels(by_level, clips) if level == "all" else by_level[level - 1]
                for part, level in self.levels.items()
            }
        return {part: found.unflatten(0, (len(pixels), -1)).flatten(1, 2) for part, found in tokens.items()}

    def modify(self, pixels: Float[Tensor, "B C *T H W"], numbers: Sequence[int], segment: int) -> Float[Tensor, "_ C *S H W"]:
        """Return the input of the encoder: as many clips, or every frame as an image, those of a sample one after the other."""
        match self.frames:
            case "in_order":
                return pixels
            case "shuffled":
                return shuffle_frames(pixels, frame_orders(numbers, segment, pixels.shape[2], self.seed))
            case "apart":
                return pixels.transpose(1, 2).flatten(0, 1)


def feature_names(extractors: Mapping[str, FeatureExtractor]) -> list[str]:
    """Return the names of all features that are extracted."""
    return [part for name, extractor in extractors.items() for part in extractor.levels or [name]]


def mean_features(
    pooled: Float[Tensor, "S D"], blocks: Sequence[Float[Tensor, "S _ _"]], samples: int
) -> dict[str, Float[Tensor, "B _"]]:
    """Return the features of each sample, averaged over its frames if these are separate inputs."""
    features = {"last": pooled.float(), "last4": torch.cat([tokens.float().mean(1) for tokens in blocks], 1)}
    return {kind: vectors.unflatten(0, (samples, -1)).mean(1) for kind, vectors in features.items()}


def shuffle_frames(clips: Float[Tensor, "B C T H W"], orders: Int64[Tensor, "B T"]) -> Float[Tensor, "B C T H W"]:
    """Return each clip with its frames in its own order."""
    rows = torch.arange(len(clips), device=clips.device)[:, None]
    return clips.transpose(1, 2)[rows, orders.to(clips.device)].transpose(1, 2)


def frame_orders(numbers: Sequence[int], segment: int, frames: int, seed: int) -> Int64[Tensor, "B T"]:
    """Return a random order of the frames per sample, a function of the seed, the sample's number and the clip's.

    If a test sample had the order of some training sample, the order would tell that they belong together.
    """
    orders = [keyed_generator(seed, Stream.SHUFFLE, 0, number, segment).permutation(frames) for number in numbers]
    return torch.from_numpy(np.stack(orders))
