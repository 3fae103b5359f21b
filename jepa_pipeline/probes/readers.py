"""A frozen encoder and how it is shown clips: as they are, or so that it cannot know the order of their frames."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from jepa_pipeline.data.random import Stream, keyed_generator
from jepa_pipeline.models.build import AnyEncoder

Frames = Literal["in_order", "apart", "shuffled"]


class Reader(NamedTuple):
    """An encoder that reads clips, or images.

    frames: in_order, as they are; apart, each by itself, as images are given to an encoder of clips, so that no token knows of two
    of them and nothing tells their order; shuffled, in a random order, another one for each clip. seed: key of these orders.
    """

    encoder: AnyEncoder
    frames: Frames = "in_order"
    seed: int = 0

    def pooled_and_intermediates(
        self, pixels: Float[Tensor, "B C *T H W"], numbers: Sequence[int], segment: int, last: int
    ) -> tuple[Float[Tensor, "B D"], list[Float[Tensor, "B _ _"]]]:
        """The encoder's pooled features and the tokens of its last blocks, those of frames apart one frame after the other.

        numbers: of the samples, training and test samples counted together; segment: which of a sample's clips these are.
        """
        if self.frames == "in_order":
            return self.encoder.pooled_and_intermediates(pixels, last)
        if self.frames == "shuffled":
            shuffled = shuffle_frames(pixels, frame_orders(numbers, segment, pixels.shape[2], self.seed))
            return self.encoder.pooled_and_intermediates(shuffled, last)
        images, split = pixels.transpose(1, 2).flatten(0, 1), (len(pixels), -1)
        pooled, blocks = self.encoder.pooled_and_intermediates(images, last)
        return pooled.unflatten(0, split).mean(1), [tokens.unflatten(0, split).flatten(1, 2) for tokens in blocks]


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
