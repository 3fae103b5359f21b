"""The values that travel from the data to the methods.

Letters of every shape in this package: B batch, V views, C channels, T H W grid or clip, N tokens, K kept tokens,
G target blocks, M tokens of a block, S a sample of vectors, D width. An image is a clip with T = 1.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int64, Num, UInt8
from torch import Tensor


class Masks(NamedTuple):
    """Which tokens are seen and which are asked for; indices into the row-major grid."""

    context: Int[Tensor, "B K"]
    targets: Int[Tensor, "B G M"]


class Damaged(NamedTuple):
    """A sample that could not be used: number of its data set, its own number in it, and why, in one sentence."""

    source: int
    sample: int
    reason: str


class Packed(NamedTuple):
    """Tensors that travel as one: their bytes, and the dtype and shape of each."""

    data: UInt8[Tensor, "N"]
    kinds: list[tuple[torch.dtype, list[int]]]


class Uncut(NamedTuple):
    """Whole images and what is to be done with them, from which the device makes the views.

    images: padded to the largest on the right and below; extents: height and width of each; boxes: left, top, right, bottom
    of every view's crop in pixels; flipped: whether it is mirrored; sizes: height and width of every view; order: rows of the
    batch, for every view first those, rows_first many, whose rows are resized before their columns; colors: of every view,
    what changes, packed, and turned_per_slot beside it, as data/augment.py has them.
    """

    images: UInt8[Tensor, "B C H W"]
    extents: Float[Tensor, "B 2"]
    boxes: Float[Tensor, "V B 4"]
    flipped: Bool[Tensor, "V B"]
    sizes: list[int]
    order: Int64[Tensor, "V B"]
    rows_first: list[int]
    colors: Packed
    turned_per_slot: list[list[int]]


class Batch(NamedTuple):
    """What a method is given. Views are uint8 on the way to the device and normalized floats after it.

    damaged: the samples for which others stand in here; uncut: on the way to the device, in place of views that are made there.
    """

    views: list[Num[Tensor, "B C *T H W"]]
    masks: list[Masks]
    labels: Int[Tensor, "B"] | None
    keys: list[str]
    damaged: list[Damaged]
    uncut: Uncut | None = None


class Vectors(NamedTuple):
    """What the health meters look at: pooled features, and a few matching targets and predictions of a step."""

    features: Float[Tensor, "B D"]
    targets: Float[Tensor, "S D"]
    predictions: Float[Tensor, "S D"]


class Output(NamedTuple):
    """What a method gives back. The sum of the losses is minimized; all else is detached and only looked at.

    features, targets and predictions are those of Vectors; above: the same of the levels of a stack from the second on.
    """

    losses: dict[str, Float[Tensor, ""]]
    features: Float[Tensor, "B D"]
    targets: Float[Tensor, "S D"]
    predictions: Float[Tensor, "S D"]
    metrics: dict[str, Float[Tensor, ""]]
    above: tuple[Vectors, ...] = ()


class Energy(NamedTuple):
    """How badly the hidden part of an image or clip goes with its visible part, at one level.

    error: the distance of prediction and target at each token, a mean over the channels; NaN where nothing is asked for, and a
    mean where it is asked for several times. targets: what is predicted, everywhere.
    """

    error: Float[Tensor, "B T H W"]
    targets: Float[Tensor, "B T H W D"]
