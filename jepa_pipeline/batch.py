"""The values that travel from the data to the methods.

Letters of every shape in this package: B batch, V views, C channels, T H W grid or clip, N tokens, K kept tokens,
G target blocks, M tokens of a block, S a sample of vectors, D width. An image is a clip with T = 1.
"""

from typing import NamedTuple

from jaxtyping import Float, Int, Num
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


class Batch(NamedTuple):
    """What a method is given. Views are uint8 on the way to the device and normalised floats after it.

    damaged: the samples for which others stand in here.
    """

    views: list[Num[Tensor, "B C *T H W"]]
    masks: list[Masks]
    labels: Int[Tensor, "B"] | None
    keys: list[str]
    damaged: list[Damaged]


class Output(NamedTuple):
    """What a method gives back. The sum of the losses is minimised; all else is detached and only looked at.

    targets and predictions are a few matching vectors of the step, for the health meters.
    """

    losses: dict[str, Float[Tensor, ""]]
    features: Float[Tensor, "B D"]
    targets: Float[Tensor, "S D"]
    predictions: Float[Tensor, "S D"]
    metrics: dict[str, Float[Tensor, ""]]
