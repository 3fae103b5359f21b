"""Confidence intervals of accuracies."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927), which is valid near 0 and 1 too.

    Raises:
        ValueError: there is nothing to count, or more correct than there are.
    """
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"{correct} of {total} is not a share")
    return share_interval(correct / total, total)


def share_interval(share: float, trials: float | int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share of `trials`, which need not be a whole number, as scipy's must."""
    z2 = Z95**2 / trials
    center = (share + z2 / 2) / (1 + z2)
    spread = Z95 / (1 + z2) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials))
    return max(0.0, center - spread), min(1.0, center + spread)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of a few normal values, such as accuracies of several seeds (Student 1908).

    Raises:
        ValueError: of a single value nothing is known.
    """
    from scipy.special import stdtrit  # takes a second

    mean, spread = fmean(values), stdev(values) / math.sqrt(len(values))
    reach = float(stdtrit(len(values) - 1, 0.975)) * spread
    return mean - reach, mean + reach


def difference_interval(first: tuple[int, int], second: tuple[int, int]) -> tuple[float, float]:
    """Return the 95 % interval of the first share minus the second (Newcombe 1998, method 10), each given as count and total.

    It assumes independent samples, so it is too wide, never too narrow, for two classifiers that are right on the same samples.
    """
    share, other = (count / total for count, total in (first, second))
    (low, high), (other_low, other_high) = wilson_interval(*first), wilson_interval(*second)
    below, above = math.hypot(share - low, other_high - other), math.hypot(high - share, other - other_low)
    return share - other - below, share - other + above
