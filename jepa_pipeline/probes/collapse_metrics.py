"""Whether a sample of representations has collapsed. The raw loss of a JEPA cannot tell: it falls when its targets collapse."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

HALVINGS = 20
"""Of the range in which a dimension's best constant lies; leaves a millionth of it."""


@torch.no_grad()
def health(vectors: Float[Tensor, "S D"]) -> dict[str, Float[Tensor, ""]]:
    """Spread, direction and rank of a sample of vectors, each a scalar.

    std_mean, std_min: over the dimensions, of each one's standard deviation; 0 when collapsed.
    cosine: mean over all pairs of different vectors; 1 when collapsed, about 0 when spread out.
    rankme: effective rank, 1 when collapsed, min(S, D) at most.
    """
    std = vectors.float().std(0)
    return {"std_mean": std.mean(), "std_min": std.min(), "cosine": mean_cosine(vectors), "rankme": rankme(vectors)}


def mean_cosine(vectors: Float[Tensor, "S D"]) -> Float[Tensor, ""]:
    """Mean cosine over all pairs of different vectors, from their sum alone."""
    unit = F.normalize(vectors.double(), dim=1)
    pairs = unit.sum(0).square().sum() - unit.square().sum()
    return (pairs / (len(unit) * (len(unit) - 1))).float()


def rankme(vectors: Float[Tensor, "S D"], epsilon: float = 1e-7) -> Float[Tensor, ""]:
    """RankMe (Garrido et al. 2023): exp of the entropy of the singular values over their sum.

    The singular values are taken from the smaller Gram matrix in fp64, which resolves what is above epsilon.
    """
    tall = vectors.double() if len(vectors) >= vectors.shape[1] else vectors.double().T
    singular = torch.linalg.eigvalsh(tall.T @ tall).clamp(min=0).sqrt()
    share = singular / singular.sum().clamp(min=torch.finfo(torch.float64).tiny) + epsilon
    return torch.exp(-(share * share.log()).sum()).float()


@torch.no_grad()
def constant_loss(targets: Float[Tensor, "S D"]) -> Float[Tensor, ""]:
    """Smooth-L1 loss of the best predictor that ignores its input: one constant per dimension."""
    targets = targets.float()
    return F.smooth_l1_loss(targets, smooth_l1_constant(targets).expand_as(targets))


@torch.no_grad()
def smooth_l1_constant(targets: Float[Tensor, "S *D"]) -> Float[Tensor, "*D"]:
    """What has the least smooth-L1 distance from all samples, each dimension of its own.

    The loss is convex in each constant, so that its slope's sign halves the range until the constant is found.
    """
    low, high = targets.amin(0), targets.amax(0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        slope = (middle - targets).clamp_(-1, 1).sum(0)
        low, high = torch.where(slope < 0, middle, low), torch.where(slope < 0, high, middle)
    return (low + high) / 2


def predictor_r2(loss: Float[Tensor, ""], constant: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """How much of the constant predictor's loss the predictor explains: 1 all of it, 0 none. It has no unit."""
    return 1 - loss / constant
