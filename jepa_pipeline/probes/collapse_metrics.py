"""Metrics of representations that reveal collapse. The loss of a JEPA does not: it falls when the targets collapse."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

HALVINGS = 20
"""Halvings of the range that holds the best constant of a dimension; a millionth of it remains."""


@torch.no_grad()
def collapse_metrics(vectors: Float[Tensor, "S D"]) -> dict[str, Float[Tensor, ""]]:
    """Return spread, direction and rank of a sample of vectors, each a scalar.

    std_mean, std_min: mean and minimum over the dimensions of their standard deviation; 0 when collapsed.
    cosine: mean over all pairs of different vectors; 1 when collapsed, about 0 when spread out.
    rankme: effective rank; 1 when collapsed, at most min(S, D).
    """
    std = vectors.float().std(0)
    return {"std_mean": std.mean(), "std_min": std.min(), "cosine": mean_cosine(vectors), "rankme": rankme(vectors)}


def mean_cosine(vectors: Float[Tensor, "S D"]) -> Float[Tensor, ""]:
    """Return the mean cosine over all pairs of different vectors, computed from the sum of the unit vectors."""
    unit = F.normalize(vectors.double(), dim=1)
    pairs = unit.sum(0).square().sum() - unit.square().sum()
    return (pairs / (len(unit) * (len(unit) - 1))).float()


def rankme(vectors: Float[Tensor, "S D"], epsilon: float = 1e-7) -> Float[Tensor, ""]:
    """Return RankMe (Garrido et al. 2023): exp of the entropy of the singular values over their sum.

    The singular values are computed from the smaller Gram matrix in fp64, which resolves those above epsilon.
    """
    tall = vectors.double() if len(vectors) >= vectors.shape[1] else vectors.double().T
    singular = torch.linalg.eigvalsh(tall.T @ tall).clamp(min=0).sqrt()
    share = singular / singular.sum().clamp(min=torch.finfo(torch.float64).tiny) + epsilon
    return torch.exp(-(share * share.log()).sum()).float()


@torch.no_grad()
def constant_loss(targets: Float[Tensor, "S D"]) -> Float[Tensor, ""]:
    """Return the smooth-L1 loss of the best predictor that ignores its input: one constant per dimension."""
    targets = targets.float()
    return F.smooth_l1_loss(targets, smooth_l1_constant(targets).expand_as(targets))


@torch.no_grad()
def smooth_l1_constant(targets: Float[Tensor, "S *D"]) -> Float[Tensor, "*D"]:
    """Return the constant of each dimension with the least smooth-L1 distance from all samples.

    The loss is convex in each constant, so bisection by the sign of its slope finds the minimum.
    """
    low, high = targets.amin(0), targets.amax(0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        slope = (middle - targets).clamp_(-1, 1).sum(0)
        low, high = torch.where(slope < 0, middle, low), torch.where(slope < 0, high, middle)
    return (low + high) / 2


def predictor_r2(loss: Float[Tensor, ""], constant: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return the share of the constant predictor's loss that the predictor explains: 1 all of it, 0 none."""
    return 1 - loss / constant
