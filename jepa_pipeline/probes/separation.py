"""Whether an energy is low for what is true and higher for what is not."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from jepa_pipeline.probes.interval import Z95, wilson_interval

Energies = Float[Tensor, " S"]
HALVINGS = 60
"""Of the range in which an interval's end lies."""


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
    area, wins, count = auroc(true, alternative), half_ties(alternative - true), len(true)
    own = (wins / count, wilson_interval(round(wins), count))
    return Separation(area, auroc_interval(area, count), margin(true, alternative), *own)


def auroc(true: Energies, alternative: Energies) -> float:
    """Area under the ROC curve: from how many true energies lie below each alternative one, and how many are equal."""
    ordered = true.sort().values
    below, not_above = (torch.searchsorted(ordered, alternative.contiguous(), right=right).double() for right in (False, True))
    return float((below + not_above).mean() / (2 * len(true)))


def half_ties(differences: Energies) -> float:
    return float((differences.sign().double().sum() + len(differences)) / 2)


def auroc_interval(area: float, count: int) -> tuple[float, float]:
    """The 95 % interval of an area under the ROC curve of so many samples of either kind: the areas whose standard error after
    Hanley and McNeil (1982) is just compatible with the one found (Newcombe 2006, method 5), which stays right near 0 and 1.

    It takes both kinds for independent; where a sample hard to predict is so in either way, it is too wide, never too narrow.
    """

    def gap(guess: float) -> float:
        spread = 1 + (count - 1) * ((1 - guess) / (2 - guess) + guess / (1 + guess))
        return abs(area - guess) - Z95 * math.sqrt(guess * (1 - guess) * spread) / count

    return boundary(0.0, area, gap), boundary(1.0, area, gap)


def boundary(outside: float, inside: float, gap: Callable[[float], float]) -> float:
    """Where between the two a gap that is above 0 outside ends."""
    if outside == inside:
        return outside
    for _ in range(HALVINGS):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if gap(middle) > 0 else (outside, middle)
    return outside


def margin(true: Energies, alternative: Energies) -> float | None:
    pooled = float(((true.double().var() + alternative.double().var()) / 2).sqrt())
    return float(alternative.double().mean() - true.double().mean()) / pooled if pooled > 0 else None
