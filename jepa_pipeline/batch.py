"""The values that travel from the data to the methods.

Letters of the shapes in this package: B batch, V views, C channels, T H W grid or clip, N tokens, K context tokens, G target
blocks, M tokens per block, S vectors in a sample, P patches of a frame or prototypes, D width of the encoder, E width of an
embedding. An image is a clip with T = 1.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int64, Num, UInt8
from torch import Tensor


class Masks(NamedTuple):
    """Indices of context and target tokens in the row-major grid."""

    context: Int[Tensor, "B K"]
    targets: Int[Tensor, "B G M"]


class Damaged(NamedTuple):
    """A sample that could not be read: the index of its data set, its own index there, and the reason in one sentence."""

    source: int
    sample: int
    reason: str


class Packed(NamedTuple):
    """Several tensors in one: their bytes, and the dtype and shape of each."""

    data: UInt8[Tensor, "N"]
    specs: list[tuple[torch.dtype, list[int]]]


class DeferredCrops(NamedTuple):
    """Whole images, and the crops and color changes that the device applies to make the views.

    Attributes:
        images: uint8 or uint16, zero-padded on the right and bottom to the largest of the batch.
        extents: height and width of each image without the padding.
        boxes: left, top, right and bottom of each view's crop, in pixels.
        flipped: whether each view is mirrored.
        sizes: side of each view, in pixels.
        order: for each view, the samples with those first whose rows are resized before their columns.
        rows_first: for each view, the number of these samples.
        colors: for each view, the parameters of its color changes; see data/augment.py.
        hues_per_slot: for each view, how many samples change their hue in each slot; see data/augment.py.
    """

    images: Num[Tensor, "B C H W"]
    extents: Float[Tensor, "B 2"]
    boxes: Float[Tensor, "V B 4"]
    flipped: Bool[Tensor, "V B"]
    sizes: list[int]
    order: Int64[Tensor, "V B"]
    rows_first: list[int]
    colors: Packed
    hues_per_slot: list[list[int]]


class Batch(NamedTuple):
    """The input of a method.

    Attributes:
        views: uint8, or uint16 for 16-bit images, until they are on the device, then normalized floats.
        masks: one per mask set; empty for methods without masks.
        labels: classes, where the data set has them.
        keys: names of the samples in their shards.
        damaged: unreadable samples, for which the batch contains replacement samples.
        deferred_crops: whole images instead of views, until the device has cropped them.
    """

    views: list[Num[Tensor, "B C *T H W"]]
    masks: list[Masks]
    labels: Int[Tensor, "B"] | None
    keys: list[str]
    damaged: list[Damaged]
    deferred_crops: DeferredCrops | None = None


class Vectors(NamedTuple):
    """The input of the health meters: pooled features, and targets with their predictions."""

    features: Float[Tensor, "B D"]
    targets: Float[Tensor, "S D"]
    predictions: Float[Tensor, "S D"]


class Output(NamedTuple):
    """The output of a method. The sum of the losses is minimized; everything else is detached.

    Attributes:
        losses: weighted terms by name.
        features, targets, predictions: those of Vectors.
        metrics: scalars to log.
        above: for a stack, the vectors of the levels above the first.
    """

    losses: dict[str, Float[Tensor, ""]]
    features: Float[Tensor, "B D"]
    targets: Float[Tensor, "S D"]
    predictions: Float[Tensor, "S D"]
    metrics: dict[str, Float[Tensor, ""]]
    above: tuple[Vectors, ...] = ()


class Energy(NamedTuple):
    """The energy of each image or clip at one level: the distance of its masked part from the prediction.

    Attributes:
        error: distance at each token, averaged over channels and over the mask sets that predict it; NaN where none does.
        targets: layer-normalized target tokens at all positions.
    """

    error: Float[Tensor, "B T H W"]
    targets: Float[Tensor, "B T H W D"]
