"""Contrastive losses: low energy for the pairs that belong together, high energy for all others of the batch.

An energy F(x, y) says how badly x and y go together. Row i of a matrix of energies holds x_i with every y: y_i belongs to it, the
other y' are its contrastive points.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from jepa_pipeline.losses.arithmetic import full, product, unit, without_diagonal


def nt_xent(embeddings: Float[Tensor, "2 S E"], temperature: float = 0.1) -> dict[str, Float[Tensor, ""]]:
    """SimCLR's loss (Chen et al. 2020, arXiv:2002.05709, eq. 1): find the other view of an image among all 2S - 1 others.

    The mean over the 2S samples; exactly two views.
    """
    both = unit(embeddings).flatten(0, 1)
    similarities = (product(both, both.T) / temperature).fill_diagonal_(float("-inf"))
    return {"nt_xent": similarities.logsumexp(dim=1).mean() - similarities.diagonal(embeddings.shape[1]).mean()}


def energies(first: Float[Tensor, "S E"], second: Float[Tensor, "S E"]) -> Float[Tensor, "S S"]:
    """The energies of a joint-embedding architecture: squared distances 2 - 2 cos between normalized vectors, from 0 to 4."""
    return 2 - 2 * product(unit(first), unit(second).T)


def info_nce(energies: Float[Tensor, "S S"], temperature: float = 0.1) -> dict[str, Float[Tensor, ""]]:
    """F(x, y) + log-sum-exp of -F over the batch, in units of the temperature, the mean of both directions.

    With contrastive y and with contrastive x (van den Oord et al. 2018, arXiv:1807.03748, eq. 4; the group loss with an implicit
    infinite margin).
    """
    scores = -full(energies) / temperature
    both = (scores.logsumexp(dim=1) + scores.logsumexp(dim=0)) / 2
    return {"info_nce": (both - scores.diagonal()).mean()}


def square_square(energies: Float[Tensor, "S S"], margin: float = 1.0) -> dict[str, Float[Tensor, ""]]:
    """Square-square: F(x, y)² + [m - F(x, y')]₊², each averaged over its own pairs. S is 2 or more.

    As in LeCun's lectures; the energy of Hadsell et al. 2006 (eq. 4) is the distance itself, and both terms are halved there.
    """
    energies = full(energies)
    repelled = F.relu(margin - without_diagonal(energies))
    return {"attract": energies.diagonal().square().mean(), "repel": repelled.square().mean()}


def pairwise_hinge(energies: Float[Tensor, "S S"], margin: float = 1.0) -> dict[str, Float[Tensor, ""]]:
    """[F(x, y) - F(x, y') + m]₊ averaged over all x and the y' that are not theirs (Dawid, LeCun 2023, eq. 3). S is 2 or more."""
    energies = full(energies)
    excess = energies.diagonal()[:, None] - energies + margin
    return {"pairwise_hinge": F.relu(without_diagonal(excess)).mean()}
