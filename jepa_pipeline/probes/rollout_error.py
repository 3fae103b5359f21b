"""The error of a prediction against the horizon, and of baselines that know nothing of the future."""

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from jepa_pipeline.config.method import Distance
from jepa_pipeline.losses.prediction import DISTANCES
from jepa_pipeline.probes.collapse_metrics import smooth_l1_constant
from jepa_pipeline.results.confidence_interval import Z95

MAX_VALUES = 2**27
"""Values of a level's targets in memory at most, over all samples and horizons, to fit the best constants: 512 MiB."""


class RolloutErrors(NamedTuple):
    """Errors of one level, per sample and time step of the future.

    Attributes:
        error: of the prediction.
        copied: of the last past step's representation, repeated at each position.
        constant: of the best constant of each position, at each step.
        frames_per_step: frames that a time step spans.
    """

    error: Float[Tensor, "S F"]
    copied: Float[Tensor, "S F"]
    constant: Float[Tensor, "F"]
    frames_per_step: int

    @property
    def relative(self) -> Float[Tensor, "S F"]:
        """Errors of the prediction over those of the best constant."""
        return self.error / self.constant


def copy_last_errors(targets: Float[Tensor, "B T H W D"], past: int, distance: Distance) -> Float[Tensor, "B F"]:
    """Return the errors of a predictor that repeats the last of `past` time steps at each position.

    If the targets attend to whole clips, that step's representation depends on the future, so the baseline is optimistic.
    """
    last = targets[:, past - 1 : past]
    errors = DISTANCES[distance](last.expand_as(targets[:, past:]), targets[:, past:], reduction="none")
    return errors.mean((2, 3, 4))


def subsample_positions(positions: int, values: int) -> Int[Tensor, " P"]:
    """Return evenly spaced positions of a grid, as many as fit MAX_VALUES if each has `values`, but at least one."""
    count = min(positions, max(1, MAX_VALUES // values))
    return (2 * torch.arange(count) + 1) * positions // (2 * count)


def constant_errors(targets: Float[Tensor, "S P D"], distance: Distance) -> Float[Tensor, "S P"]:
    """Return the errors of the best predictor that knows the position alone: one constant per position and dimension.

    The constants of the samples with even numbers are fitted to those with odd numbers, and vice versa, so that no sample is
    compared with a constant that was fitted to it.
    """
    errors = torch.empty(targets.shape[:2])
    even, odd = slice(0, None, 2), slice(1, None, 2)
    for tested, fitted in ((even, odd), (odd, even)):
        best = best_constant(targets[fitted], distance).expand_as(targets[tested])
        errors[tested] = DISTANCES[distance](targets[tested], best, reduction="none").mean(2)
    return errors


def best_constant(targets: Float[Tensor, "S P D"], distance: Distance) -> Float[Tensor, "P D"]:
    """Return the constant with the least distance from all samples; for L1 the median, as usual halfway between the middle two."""
    if distance == "smooth_l1":
        return smooth_l1_constant(targets)
    # torch's median is the lower of the middle two
    return (targets.median(0).values - (-targets).median(0).values) / 2


def first_better_horizon(differences: Float[Tensor, "S F"]) -> int | None:
    """Return the first horizon, counted from 0, from which on the mean paired difference is below 0 with its 95 % interval."""
    count = len(differences)
    upper = differences.double().mean(0) + Z95 * differences.double().std(0) / sqrt(count)
    not_better = (~(upper < 0)).nonzero()
    first = int(not_better.max()) + 1 if len(not_better) else 0
    return first if first < len(upper) else None


def comparison_sentences(rollouts: Sequence[RolloutErrors]) -> list[str]:
    """Return from which horizon on each level predicts better than copying, and than the level below."""
    sentences = []
    for number, rollout in enumerate(rollouts, start=1):
        first = first_better_horizon(rollout.error - rollout.copied)
        sentences.append(comparison_sentence(number, first, rollout, "copying the last past step"))
        if number > 1:
            below = rollouts[number - 2]
            steps = below.relative.unflatten(1, (-1, rollout.frames_per_step // below.frames_per_step)).mean(2)
            first = first_better_horizon(rollout.relative - steps)
            other = f"level {number - 1}, each relative to the error of the best constant of each position,"
            sentences.append(comparison_sentence(number, first, rollout, other))
    return sentences


def comparison_sentence(level: int, first: int | None, rollout: RolloutErrors, other: str) -> str:
    if first is None:
        return f"level {level} has no horizon from which on it predicts better than {other} beyond chance"
    where = f"from {first * rollout.frames_per_step + 1} frames ahead on" if first else "at every horizon"
    return f"level {level} predicts better than {other} {where} (95 %)"


def frames_ahead(rollout: RolloutErrors) -> list[float]:
    """Return the middle of each time step, in frames after the last past one."""
    return [(2 * step + 1) * rollout.frames_per_step / 2 + 0.5 for step in range(len(rollout.constant))]


def plot_horizons(rollouts: Sequence[RolloutErrors], title: str) -> Figure:
    """Return a figure of the errors relative to the best constant: a line per level with its 95 % interval; copying is dashed."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, rollout in enumerate(rollouts, start=1):
        mean, half = rollout.relative.mean(0), Z95 * rollout.relative.std(0) / sqrt(len(rollout.relative))
        (line,) = axes.plot(frames_ahead(rollout), mean, marker="o", label=f"level {number}")
        axes.fill_between(frames_ahead(rollout), mean - half, mean + half, color=line.get_color(), alpha=0.2, linewidth=0)
        copied = (rollout.copied / rollout.constant).mean(0)
        axes.plot(frames_ahead(rollout), copied, "--", color=line.get_color(), label=f"level {number}, copy last")
    axes.axhline(1.0, color="gray", linewidth=0.8)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("frames ahead")
    axes.set_ylabel("error / error of the best constant of each position")
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=8)
    return figure
