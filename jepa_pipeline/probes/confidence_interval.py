"""How sure an accuracy is."""

import math

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927), which stays right near 0 and 1.

    Raises:
        ValueError: there is nothing to count, or more right than there is.
    """
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"{correct} of {total} is no share")
    return share_interval(correct / total, total)


def share_interval(share: float, trials: float | int) -> tuple[float, float]:
    """The same of a share of so many trials, which need not be a whole number."""
    z2 = Z95**2 / trials
    center = (share + z2 / 2) / (1 + z2)
    spread = Z95 / (1 + z2) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials))
    return max(0.0, center - spread), min(1.0, center + spread)


def difference_interval(first: tuple[int, int], second: tuple[int, int]) -> tuple[float, float]:
    """The 95 % interval of the first share less the second (Newcombe 1998, method 10), each given as its count and its total.

    It takes the two for independent, and so is too wide for two classifiers that are right on the same samples, never too narrow.
    """
    (ours, theirs), ends = (count / total for count, total in (first, second)), (wilson_interval(*first), wilson_interval(*second))
    (low, high), (other_low, other_high) = ends
    below, above = math.hypot(ours - low, other_high - theirs), math.hypot(high - ours, theirs - other_low)
    return ours - theirs - below, ours - theirs + above
