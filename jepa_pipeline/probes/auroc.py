"""Whether an energy is low for what is true and higher for what is not."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from jepa_pipeline.probes.confidence_interval import share_interval

Energies = Float[Tensor, " S"]


class Separation(NamedTuple):
    """How far two energies of the same samples are apart, that of the truth and that of an alternative to it.

    auroc: share of all pairs of a true and an alternative energy in which the alternative's is the higher; ties count half.
    margin: the difference of the means over the pooled standard deviation; None if neither varies.
    own: share of samples whose own alternative is the higher, ties count half; ci95 of both.
    """

    auroc: float
    ci95: tuple[float, float]
    margin: float | None
    own: float
    own_ci95: tuple[float, float]


def separate(true: Energies, alternative: Energies) -> Separation:
    """What an alternative's energies are beside the true ones, each of the same sample."""
    own = float(wins(true, alternative).mean())
    interval = share_interval(own, len(true))
    return Separation(auroc(true, alternative), auroc_interval(true, alternative), margin(true, alternative), own, interval)


def auroc(true: Energies, alternative: Energies) -> float:
    """Area under the ROC curve: from how many true energies lie below each alternative one, and how many are equal."""
    return float(below(alternative, true).mean() / len(true))


def below(energies: Energies, others: Energies) -> Energies:
    """How many of the others lie below each energy; those that are equal count half."""
    ordered = others.sort().values
    fewer, not_more = (torch.searchsorted(ordered, energies.contiguous(), right=right).double() for right in (False, True))
    return (fewer + not_more) / 2


def wins(true: Energies, alternative: Energies) -> Energies:
    """Of each sample 1 if its own alternative has the higher energy, 0 if the lower, and half where they are equal."""
    return ((alternative - true).sign().double() + 1) / 2


def auroc_interval(true: Energies, alternative: Energies) -> tuple[float, float]:
    """The 95 % interval of the area under the ROC curve of true and alternative energies, the two of a sample being paired.

    The variance is that of the paired placements (DeLong et al. 1988): of each sample, in how many of the others' alternatives
    and truths its own truth and its own alternative are right. Pairs of one sample are left out, for their two energies are not
    independent. The interval is Wilson's for as many independent trials as have that variance, so that it stays within 0 and 1;
    these are taken for fewer where samples are few, whose variance is badly known, and never for more than there are samples
    where all but few pairs are told apart, nor than there are pairs.
    """
    count, own = len(true), wins(true, alternative)
    placements = torch.stack([count - below(true, alternative) - own, below(alternative, true) - own]) / (count - 1)
    area = min(1.0, max(0.0, float(placements.mean())))
    variance, uncertainty = float(placements.sum(0).var()) / count, area * (1 - area)
    most = count * (1 + (count - 1) * (4 * uncertainty) ** 2)
    trials = min(most, uncertainty / variance * (count - 1) / (count + 1)) if variance > 0 else most
    low, high = share_interval(area, trials)
    whole = auroc(true, alternative)
    return min(low, whole), max(high, whole)


def margin(true: Energies, alternative: Energies) -> float | None:
    pooled = float(((true.double().var() + alternative.double().var()) / 2).sqrt())
    return float(alternative.double().mean() - true.double().mean()) / pooled if pooled > 0 else None
