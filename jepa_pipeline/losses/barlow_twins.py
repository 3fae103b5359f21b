"""Redundancy reduction (Zbontar et al. 2021, arXiv:2103.03230)."""

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from jepa_pipeline.losses.arithmetic import full, product, without_diagonal


def barlow_twins(embeddings: Float[Tensor, "V S E"], off_diagonal: float = 0.0051) -> dict[str, Float[Tensor, ""]]:
    """Return the distance of two views' cross-correlation from the identity (eq. 1, 2), averaged over all pairs of views.

    Dimensions are standardized as by batch norm in training: biased variance, eps 1e-5. The gradient is that of the global batch;
    the published code sums correlations over W ranks without gradient, which gives 1/W of it.
    """
    embeddings = full(embeddings)
    variance, mean = torch.var_mean(embeddings, dim=1, correction=0, keepdim=True)
    standard = (embeddings - mean) / (variance + 1e-5).sqrt()
    views, samples, _ = embeddings.shape
    correlations = [product(standard[a].T, standard[b]) / samples for a, b in combinations(range(views), 2)]
    on = [(1 - c.diagonal()).square().sum() for c in correlations]
    off = [without_diagonal(c).square().sum() for c in correlations]
    return {"on_diagonal": torch.stack(on).mean(), "off_diagonal": off_diagonal * torch.stack(off).mean()}
