"""Contrastive losses: low energy for positive pairs, high energy for all other pairs of the batch.

An energy F(x, y) is high if x and y do not match. Row i of a matrix of energies holds x_i with every y: y_i is its positive, the
other y' are its negatives.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from jepa_pipeline.losses.arithmetic import full, product, unit, without_diagonal


def nt_xent(embeddings: Float[Tensor, "2 S E"], temperature: float = 0.1) -> dict[str, Float[Tensor, ""]]:
    """Return SimCLR's loss (Chen et al. 2020, arXiv:2002.05709, eq. 1): find an image's other view among all 2S - 1 others.

    The mean over the 2S samples; exactly two views.
    """
    both = unit(embeddings).flatten(0, 1)
    similarities = (product(both, both.T) / temperature).fill_diagonal_(float("-inf"))
    return {"nt_xent": similarities.logsumexp(dim=1).mean() - similarities.diagonal(embeddings.shape[1]).mean()}


def energies(first: Float[Tensor, "S E"], second: Float[Tensor, "S E"]) -> Float[Tensor, "S S"]:
    """Return a joint-embedding architecture's energies: squared distances 2 - 2 cos of normalized vectors, from 0 to 4."""
    return 2 - 2 * product(unit(first), unit(second).T)


def info_nce(energies: Float[Tensor, "S S"], temperature: float = 0.1) -> dict[str, Float[Tensor, ""]]:
    """Return F(x, y) + log-sum-exp of -F over the batch, in units of the temperature, averaged over both directions.

    The negatives are other y in one direction and other x in the other (van den Oord et al. 2018, arXiv:1807.03748, eq. 4).
    """
    scores = -full(energies) / temperature
    both = (scores.logsumexp(dim=1) + scores.logsumexp(dim=0)) / 2
    return {"info_nce": (both - scores.diagonal()).mean()}


def square_square(energies: Float[Tensor, "S S"], margin: float = 1.0) -> dict[str, Float[Tensor, ""]]:
    """Return the square-square loss F(x, y)² + [m - F(x, y')]₊², each term averaged over its own pairs; S >= 2.

    As in LeCun's lectures. In Hadsell et al. 2006 (eq. 4) the energy is the distance itself, and both terms are halved.
    """
    energies = full(energies)
    repelled = F.relu(margin - without_diagonal(energies))
    return {"attract": energies.diagonal().square().mean(), "repel": repelled.square().mean()}
