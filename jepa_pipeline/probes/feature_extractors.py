"""A frozen encoder and how it is shown clips: as they are, or so that it cannot know the order of their frames."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from jepa_pipeline.config.level import Level
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.models.build import AnyEncoder
from jepa_pipeline.models.stack import Stack

Frames = Literal["in_order", "apart", "shuffled"]
Kinds = dict[str, Float[Tensor, "_ _"]]
"""Feature vectors of the same samples by kind: "last" and "last4", or "pixels"."""
LAST = 4
"""Blocks or stages whose mean tokens are "last4", or all if there are fewer."""


class Reader(NamedTuple):
    """An encoder that reads clips, or images.

    frames: in_order, as they are; apart, each by itself, as images are given to an encoder of clips, so that no token knows of two
    of them and nothing tells their order; shuffled, in a random order, another one for each clip. seed: key of these orders.
    levels: of a stack, those that are read, by what they are called; all of them in one pass.
    """

    encoder: AnyEncoder
    frames: Frames = "in_order"
    seed: int = 0
    levels: Mapping[str, Level] | None = None

    def vectors(
        self, name: str, pixels: Float[Tensor, "B C *T H W"], numbers: Sequence[int], segment: int
    ) -> dict[str, dict[str, Float[Tensor, "B _"]]]:
        """The pooled features, "last", and the mean tokens of the last four blocks or stages in order of depth, "last4".

        By the name of each level; of no stack by the one given. Those of all levels are each level's, one after the other.

        Args:
            name: what the encoder is called, unless its levels have names.
            pixels: normalized.
            numbers: of the samples, training and test samples counted together.
            segment: which of a sample's clips these are.
        """
        shown, samples = self.show(pixels, numbers, segment), len(pixels)
        if self.levels is None:
            return {name: kinds(*self.encoder.pooled_and_intermediates(shown, min(LAST, self.encoder.depth)), samples)}
        each = [kinds(blocks[-1].mean(1), blocks, samples) for blocks in self.stack.levels(shown, LAST)]
        return {name: beside(each) if level == "all" else each[level - 1] for name, level in self.levels.items()}

    def tokens(
        self, name: str, pixels: Float[Tensor, "B C *T H W"], numbers: Sequence[int], segment: int
    ) -> dict[str, Float[Tensor, "B _ _"]]:
        """The last tokens, those of frames apart one frame after the other; by name, and of the same arguments, as vectors are."""
        shown = self.show(pixels, numbers, segment)
        if self.levels is None:
            found = {name: self.encoder.intermediates(shown, 1)[-1]}
        else:
            each = [blocks[-1] for blocks in self.stack.levels(shown, 1)]
            found = {
                name: self.stack.beside(each, shown) if level == "all" else each[level - 1] for name, level in self.levels.items()
            }
        return {name: tokens.unflatten(0, (len(pixels), -1)).flatten(1, 2) for name, tokens in found.items()}

    @property
    def stack(self) -> Stack:
        assert isinstance(self.encoder, Stack)
        return self.encoder

    def show(self, pixels: Float[Tensor, "B C *T H W"], numbers: Sequence[int], segment: int) -> Float[Tensor, "_ C *S H W"]:
        """What the encoder is given: as many clips, or every frame as an image, a sample's one after the other."""
        match self.frames:
            case "in_order":
                return pixels
            case "shuffled":
                return shuffle_frames(pixels, frame_orders(numbers, segment, pixels.shape[2], self.seed))
            case "apart":
                return pixels.transpose(1, 2).flatten(0, 1)


def names_of(readers: Mapping[str, Reader]) -> list[str]:
    """What all that they read is called."""
    return [part for name, reader in readers.items() for part in reader.levels or [name]]


def kinds(pooled: Float[Tensor, "S D"], blocks: Sequence[Float[Tensor, "S _ _"]], samples: int) -> dict[str, Float[Tensor, "B _"]]:
    """Means over all that was shown of each sample."""
    found = {"last": pooled.float(), "last4": torch.cat([tokens.float().mean(1) for tokens in blocks], 1)}
    return {kind: vectors.unflatten(0, (samples, -1)).mean(1) for kind, vectors in found.items()}


def beside(each: Sequence[dict[str, Float[Tensor, "B _"]]]) -> dict[str, Float[Tensor, "B _"]]:
    return {kind: torch.cat([level[kind] for level in each], 1) for kind in each[0]}


def shuffle_frames(clips: Float[Tensor, "B C T H W"], orders: Int64[Tensor, "B T"]) -> Float[Tensor, "B C T H W"]:
    """Each clip with its frames in its own order."""
    rows = torch.arange(len(clips), device=clips.device)[:, None]
    return clips.transpose(1, 2)[rows, orders.to(clips.device)].transpose(1, 2)


def frame_orders(numbers: Sequence[int], segment: int, frames: int, seed: int) -> Int64[Tensor, "B T"]:
    """A random order of the frames of one clip of each sample: a function of the seed, the sample's number and the clip's.

    Were the order of a test sample that of some training sample, it would tell them to belong together.
    """
    orders = [keyed_generator(seed, Stream.ORDER, 0, number, segment).permutation(frames) for number in numbers]
    return torch.from_numpy(np.stack(orders))
