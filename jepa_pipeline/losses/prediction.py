"""Distances between predicted and true representations."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def smooth_l1(predictions: Float[Tensor, "*S D"], targets: Float[Tensor, "*S D"]) -> dict[str, Float[Tensor, ""]]:
    """I-JEPA's distance: quadratic below an error of 1 and linear above, averaged over everything, in fp32."""
    return {"prediction": F.smooth_l1_loss(predictions.float(), targets.float(), beta=1.0)}
