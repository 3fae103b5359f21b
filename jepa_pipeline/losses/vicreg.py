"""Variance, invariance, covariance (Bardes, Ponce, LeCun 2022, arXiv:2105.04906)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from jepa_pipeline.losses.arithmetic import full, product, without_diagonal


def vicreg(
    embeddings: Float[Tensor, "V S E"],
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> dict[str, Float[Tensor, ""]]:
    """Return VICReg's weighted invariance, variance and covariance terms for two or more views.

    Invariance is the mean squared difference, averaged over pairs of views (eq. 5 sums over dimensions). Variance is averaged over
    views and covariance summed, as in the published code; the paper's eq. 6 sums both, which doubles the weight of variance.
    """
    embeddings = full(embeddings)
    difference = 2 * embeddings.var(dim=0).mean()  # the mean over pairs of (a - b)^2 is twice the unbiased variance
    return {"invariance": invariance * difference, **regularize(embeddings.unbind(), variance, covariance)}


def regularize(
    samples: Sequence[Float[Tensor, "_ E"]], variance_weight: float, covariance_weight: float
) -> dict[str, Float[Tensor, ""]]:
    """Return the mean of the samples' variance hinges and the sum of their covariances, weighted."""
    samples = [full(x) for x in samples]
    hinges, covariances = torch.stack([variance_hinge(x) for x in samples]), torch.stack([covariance(x) for x in samples])
    return {"variance": variance_weight * hinges.mean(), "covariance": covariance_weight * covariances.sum()}


def variance_hinge(x: Float[Tensor, "S E"]) -> Float[Tensor, ""]:
    """Return max(0, 1 - standard deviation), averaged over dimensions (eq. 1, 2); S >= 2."""
    return F.relu(1 - (full(x).var(dim=0) + 1e-4).sqrt()).mean()


def covariance(x: Float[Tensor, "S E"]) -> Float[Tensor, ""]:
    """Return the sum of squared covariances between dimensions, divided by their number E (eq. 3, 4); S >= 2."""
    samples, width = x.shape
    x = full(x)
    centered = x - x.mean(dim=0)
    return without_diagonal(product(centered.T, centered)).square().sum() / (width * (samples - 1) ** 2)
