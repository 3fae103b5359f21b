"""Separation of true and alternative energies: area under the ROC curve with its interval, margin and paired wins."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from jepa_pipeline.results.confidence_interval import share_interval

Energies = Float[Tensor, " S"]


class Separation(NamedTuple):
    """The separation by energies of the truth from an alternative of the same samples.

    Attributes:
        auroc: share of all pairs of a true and an alternative energy in which the alternative's is higher; ties count half.
        ci95: 95 % interval of auroc.
        margin: difference of the means over the pooled standard deviation; None if that is 0.
        own: share of samples whose own alternative is higher; ties count half.
        own_ci95: 95 % Wilson interval of own.
    """

    auroc: float
    ci95: tuple[float, float]
    margin: float | None
    own: float
    own_ci95: tuple[float, float]


def separate(true: Energies, alternative: Energies) -> Separation:
    """Return how well energies separate the truth from the alternative, both in order of the samples."""
    own = float(wins(true, alternative).mean())
    area, interval = auroc(true, alternative), auroc_interval(true, alternative)
    return Separation(area, interval, margin(true, alternative), own, share_interval(own, len(true)))


def auroc(true: Energies, alternative: Energies) -> float:
    """Return the area under the ROC curve, which is the Mann-Whitney U over the number of pairs."""
    return float(placements(true, alternative)[1].mean() / len(true))


def placements(true: Energies, alternative: Energies) -> tuple[Energies, Energies]:
    """Return per sample the number of alternatives above its truth, and of truths below its alternative; ties count half.

    Both follow from midranks (Sun and Xu 2014): the rank among all less the rank among its own kind.
    """
    count = len(true)
    ranks = rankdata(torch.cat([true, alternative]).numpy())
    below_true = ranks[:count] - rankdata(true.numpy())
    below_alternative = ranks[count:] - rankdata(alternative.numpy())
    return count - torch.from_numpy(below_true), torch.from_numpy(below_alternative)


def wins(true: Energies, alternative: Energies) -> Energies:
    """Return 1 per sample whose own alternative has the higher energy, 0 if the lower, 0.5 for ties."""
    return ((alternative - true).sign().double() + 1) / 2


def auroc_interval(true: Energies, alternative: Energies) -> tuple[float, float]:
    """Return the 95 % interval of the area under the ROC curve of paired true and alternative energies.

    The variance is that of paired placements (DeLong et al. 1988): per sample, the share of the other samples' alternatives and
    truths that are on the right side of its own truth and alternative. Pairs of one sample are left out, because its two energies
    are not independent. The interval is Wilson's for as many independent trials as have that variance, so it stays within 0
    and 1. The trials are reduced for few samples, whose variance is uncertain, and limited to the samples where all but few pairs
    are separated, and to the pairs elsewhere.
    """
    count, own = len(true), wins(true, alternative)
    above, below = placements(true, alternative)
    right = torch.stack([above - own, below - own]) / (count - 1)
    area = min(1.0, max(0.0, float(right.mean())))
    variance, uncertainty = float(right.sum(0).var()) / count, area * (1 - area)
    most = count * (1 + (count - 1) * (4 * uncertainty) ** 2)
    trials = min(most, uncertainty / variance * (count - 1) / (count + 1)) if variance > 0 else most
    low, high = share_interval(area, trials)
    all_pairs = auroc(true, alternative)
    return min(low, all_pairs), max(high, all_pairs)


def margin(true: Energies, alternative: Energies) -> float | None:
    pooled = float(((true.double().var() + alternative.double().var()) / 2).sqrt())
    return float(alternative.double().mean() - true.double().mean()) / pooled if pooled > 0 else None
