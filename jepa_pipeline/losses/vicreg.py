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
    """Pull the views of an image together; keep every dimension spread out and no two of them alike. For two or more views.

    Invariance is the mean squared difference, averaged over pairs of views (eq. 5, there summed over dimensions). Variance is the
    mean over views and covariance their sum, as in the published code; the paper's eq. 6 sums the variances of both views and so
    has twice the weight on them.
    """
    embeddings = full(embeddings)
    difference = 2 * embeddings.var(dim=0).mean()  # the mean over pairs of (a - b)^2 is twice the unbiased variance
    return {"invariance": invariance * difference, **regularize(embeddings.unbind(), variance, covariance)}


def regularize(
    samples: Sequence[Float[Tensor, "_ E"]], variance_weight: float, covariance_weight: float
) -> dict[str, Float[Tensor, ""]]:
    """Keep each of some samples of vectors from collapse: the mean of their hinges, the sum of their covariances."""
    samples = [full(x) for x in samples]
    hinges, covariances = torch.stack([variance_hinge(x) for x in samples]), torch.stack([covariance(x) for x in samples])
    return {"variance": variance_weight * hinges.mean(), "covariance": covariance_weight * covariances.sum()}


def variance_hinge(x: Float[Tensor, "S E"]) -> Float[Tensor, ""]:
    """By how much the standard deviation of a dimension falls short of 1, averaged over dimensions (eq. 1, 2). S is 2 or more."""
    return F.relu(1 - (full(x).var(dim=0) + 1e-4).sqrt()).mean()


def covariance(x: Float[Tensor, "S E"]) -> Float[Tensor, ""]:
    """The sum of the squared covariances between dimensions, divided by their number E (eq. 3, 4). S is 2 or more."""
    samples, width = x.shape
    x = full(x)
    centered = x - x.mean(dim=0)
    return without_diagonal(product(centered.T, centered)).square().sum() / (width * (samples - 1) ** 2)
