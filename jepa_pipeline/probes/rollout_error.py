"""How far ahead a prediction is any good: its error against the horizon, beside baselines that know nothing of the future."""

from collections.abc import Sequence
from math import sqrt
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from jepa_pipeline.probes.collapse_metrics import smooth_l1_constant
from jepa_pipeline.probes.confidence_interval import Z95

Distance = Literal["l1", "smooth_l1"]
DISTANCES = {"l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}
VALUES = 2**27
"""Of a level's targets that are kept at most, of all samples and horizons, for the best constants: 512 MiB."""


class Curve(NamedTuple):
    """Of one level, errors of every sample at every time step after the cut.

    error: the prediction's; copied: of the last past step's representation, taken for that of the same place later on;
    constant: of the best constant of each place, at each step; frames: how many a time step spans.
    """

    error: Float[Tensor, "S F"]
    copied: Float[Tensor, "S F"]
    constant: Float[Tensor, "F"]
    frames: int

    @property
    def share(self) -> Float[Tensor, "S F"]:
        """The prediction's errors, those of the best constant being 1."""
        return self.error / self.constant


def copy_last(targets: Float[Tensor, "B T H W D"], past: int, distance: Distance) -> Float[Tensor, "B F"]:
    """Errors at each time step after `past` ones of a predictor that repeats the last of these, place by place.

    Where the target sees whole clips, that step's representation already knows of the future: as a baseline it is flattered.
    """
    last = targets[:, past - 1 : past]
    errors = DISTANCES[distance](last.expand_as(targets[:, past:]), targets[:, past:], reduction="none")
    return errors.mean((2, 3, 4))


def some_places(places: int, values: int) -> Int[Tensor, " P"]:
    """Evenly spaced places of a grid, as many as have VALUES values if each has so many, one at least, or all of them."""
    kept = min(places, max(1, VALUES // values))
    return (2 * torch.arange(kept) + 1) * places // (2 * kept)


def constant_errors(targets: Float[Tensor, "S P D"], distance: Distance) -> Float[Tensor, "S P"]:
    """The error at each place of the best predictor that knows only where that is: one constant for each place and dimension.

    Those for the samples with even numbers are found from those with odd ones, and the other way round, so that none has seen
    what it is compared with.
    """
    errors = torch.empty(targets.shape[:2])
    for mine, others in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        best = best_constant(targets[others], distance).expand_as(targets[mine])
        errors[mine] = DISTANCES[distance](targets[mine], best, reduction="none").mean(2)
    return errors


def best_constant(targets: Float[Tensor, "S P D"], distance: Distance) -> Float[Tensor, "P D"]:
    """What has the least distance from all samples: of L1 the median, of an even number of them halfway between the middle two."""
    if distance == "smooth_l1":
        return smooth_l1_constant(targets)
    return (targets.median(0).values - (-targets).median(0).values) / 2


def better_from(differences: Float[Tensor, "S F"]) -> int | None:
    """The first horizon, counted from 0, from which on paired differences lie below 0 in the mean with their 95 % interval."""
    count = len(differences)
    upper = differences.double().mean(0) + Z95 * differences.double().std(0) / sqrt(count)
    wrong = (~(upper < 0)).nonzero()
    first = int(wrong.max()) + 1 if len(wrong) else 0
    return first if first < len(upper) else None


def sentences(curves: Sequence[Curve]) -> list[str]:
    """From where on each level predicts better than copying, and better than the level below."""
    said = []
    for number, curve in enumerate(curves, start=1):
        said.append(against(f"level {number}", better_from(curve.error - curve.copied), curve, "copying the last past step"))
        if number > 1:
            below = curves[number - 2]
            steps = below.share.unflatten(1, (-1, curve.frames // below.frames)).mean(2)
            beaten = better_from(curve.share - steps)
            shares = "each in shares of the error of the best constant of each place,"
            said.append(against(f"level {number}", beaten, curve, f"level {number - 1}, {shares}"))
    return said


def against(name: str, first: int | None, curve: Curve, other: str) -> str:
    if first is None:
        return f"{name} has no horizon from which on it predicts better than {other} beyond chance"
    where = f"from {first * curve.frames + 1} frames ahead on" if first else "at every horizon"
    return f"{name} predicts better than {other} {where} (95 %)"


def ahead(curve: Curve) -> list[float]:
    """The middle of each time step, in frames after the last past one."""
    return [(2 * step + 1) * curve.frames / 2 + 0.5 for step in range(len(curve.constant))]


def draw_horizons(curves: Sequence[Curve], title: str) -> Figure:
    """Errors as shares of the best constant's: a line a level with its 95 % interval; copying the last step is dashed."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, curve in enumerate(curves, start=1):
        mean, half = curve.share.mean(0), Z95 * curve.share.std(0) / sqrt(len(curve.share))
        (line,) = axes.plot(ahead(curve), mean, marker="o", label=f"level {number}")
        axes.fill_between(ahead(curve), mean - half, mean + half, color=line.get_color(), alpha=0.2, linewidth=0)
        copied = (curve.copied / curve.constant).mean(0)
        axes.plot(ahead(curve), copied, "--", color=line.get_color(), label=f"level {number}, copy last")
    axes.axhline(1.0, color="gray", linewidth=0.8)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("frames ahead")
    axes.set_ylabel("error / error of the best constant of each place")
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=8)
    return figure
