"""Comparison of trials with the recipe as it is, and the choice of the settings to use."""

from collections.abc import Sequence
from statistics import fmean, median
from typing import NamedTuple

LEAST_GAIN = 1.03
"""Ratio of speeds from which a setting is worth an override."""


class Measured(NamedTuple):
    """The measurements of a trial.

    Attributes:
        losses: of the first steps, over all processes.
        step_s: seconds of the median step after the first ones.
        start_s: seconds of the first step, with compilation.
        waiting: share of the time spent waiting for data.
        memory_bytes: largest size of the tensors on a device; on a CPU, of a process.
        step_flops: FLOPs of a step over all processes; None if not counted.
    """

    losses: list[float]
    step_s: float
    start_s: float
    waiting: float
    memory_bytes: int
    step_flops: float | None = None

    def run_s(self, steps: int) -> float:
        """Return the seconds of a run of so many steps, with its first one."""
        return self.start_s + (steps - 1) * self.step_s


class Trial(NamedTuple):
    """A trial: its overrides, and what it measured or why it could not."""

    overrides: Sequence[str]
    measured: Measured | None
    problem: str = ""

    @property
    def name(self) -> str:
        return " ".join(self.overrides) or "the recipe as it is"


class Comparison(NamedTuple):
    """A trial beside the recipe as it is.

    Attributes:
        speed: time of the whole run as it is over that with the settings of this trial.
        difference: mean distance of the losses, as a share of the recipe's mean loss.
        refused: the losses are further away than those of another seed.
    """

    trial: Trial
    speed: float | None
    difference: float | None
    refused: bool


def loss_difference(losses: Sequence[float], plain: Sequence[float]) -> float:
    """Return the mean distance of the losses of the steps that both have, as a share of the mean loss."""
    pairs = list(zip(losses, plain, strict=False))
    return fmean(abs(one - other) for one, other in pairs) / max(fmean(abs(other) for _, other in pairs), 1e-12)


def compare(trial: Trial, plain: Sequence[Measured], other_seed: Measured | None, steps: int) -> Comparison:
    """Compare a trial with the recipe as it is, and its losses with the noise: those of the recipe with another seed.

    Args:
        trial: the trial.
        plain: what trials of the recipe as it is have measured.
        other_seed: what the one with another seed has measured; None: nothing, and all that differs is refused.
        steps: of the whole run.
    """
    if trial.measured is None:
        return Comparison(trial, None, None, False)
    difference = loss_difference(trial.measured.losses, plain[0].losses)
    noise = loss_difference(other_seed.losses, plain[0].losses) if other_seed is not None else 0.0
    refused = not difference <= noise  # losses that are no numbers are refused too
    return Comparison(trial, median(one.run_s(steps) for one in plain) / trial.measured.run_s(steps), difference, refused)


def winners(compared: Sequence[Comparison], spread: float) -> list[Comparison]:
    """Return the trials that are faster than the recipe by more than chance, the fastest first and one for each key.

    spread: ratio of the speeds of two trials of the same settings, at least 1.
    """
    chosen: list[Comparison] = []
    for one in sorted(compared, key=lambda one: -(one.speed or 0.0)):
        keys = {override.partition("=")[0] for override in one.trial.overrides}
        taken = {override.partition("=")[0] for other in chosen for override in other.trial.overrides}
        if one.speed is not None and not one.refused and one.speed > max(LEAST_GAIN, spread) and not keys & taken:
            chosen.append(one)
    return chosen
