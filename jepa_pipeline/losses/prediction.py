"""Distances between predicted and true representations."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from jepa_pipeline.losses.arithmetic import unit


def smooth_l1(predictions: Float[Tensor, "*S D"], targets: Float[Tensor, "*S D"]) -> dict[str, Float[Tensor, ""]]:
    """I-JEPA's distance: quadratic below an error of 1 and linear above, averaged over everything, in fp32."""
    return {"prediction": F.smooth_l1_loss(predictions.float(), targets.float(), beta=1.0)}


def l1(predictions: Float[Tensor, "*S D"], targets: Float[Tensor, "*S D"]) -> dict[str, Float[Tensor, ""]]:
    """V-JEPA's distance (Bardes et al. 2024, equation 1): the absolute error, averaged over everything, in fp32."""
    return {"prediction": F.l1_loss(predictions.float(), targets.float())}


def by_token(distance: str, predictions: Float[Tensor, "*S D"], targets: Float[Tensor, "*S D"]) -> Float[Tensor, "*S"]:
    """Either distance, `l1` or `smooth_l1`, of each vector by itself: a mean over the channels."""
    elementwise = {"l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}[distance]
    return elementwise(predictions.float(), targets.float(), reduction="none").mean(-1)


def cosine(predictions: Float[Tensor, "*S E"], targets: Float[Tensor, "*S E"], weight: float = 1.0) -> dict[str, Float[Tensor, ""]]:
    """The squared distance of normalized vectors, 2 - 2 cos, averaged: BYOL's eq. 2, and SimSiam's eq. 1 up to scale and offset.

    Targets get a gradient too: whether it is stopped is the method's to say. Nothing here keeps from collapse.
    """
    return {"cosine": weight * (2 - 2 * (unit(predictions) * unit(targets)).sum(-1)).mean()}
