"""Distances between predicted and target representations."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from jepa_pipeline.losses.arithmetic import unit

DISTANCES = {"l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}
"""By name in the configuration: V-JEPA's (Bardes et al. 2024, eq. 1) and I-JEPA's, quadratic below an error of 1."""


def mean_distance(name: str, predictions: Float[Tensor, "*S D"], targets: Float[Tensor, "*S D"]) -> Float[Tensor, ""]:
    """Return the distance averaged over everything, in fp32."""
    return DISTANCES[name](predictions.float(), targets.float())


def token_distance(name: str, predictions: Float[Tensor, "*S D"], targets: Float[Tensor, "*S D"]) -> Float[Tensor, "*S"]:
    """Return the distance of each token, averaged over its channels, in fp32."""
    return DISTANCES[name](predictions.float(), targets.float(), reduction="none").mean(-1)


def cosine(predictions: Float[Tensor, "*S E"], targets: Float[Tensor, "*S E"], weight: float = 1.0) -> dict[str, Float[Tensor, ""]]:
    """Return the mean squared distance 2 - 2 cos of normalized vectors: BYOL's eq. 2; SimSiam's eq. 1 up to scale and offset.

    Targets have a gradient unless the caller stops it. The loss does not prevent collapse.
    """
    return {"cosine": weight * (2 - 2 * (unit(predictions) * unit(targets)).sum(-1)).mean()}
