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

from jepa_pipeline.probes.health import constant_loss
from jepa_pipeline.probes.interval import Z95

Distance = Literal["l1", "smooth_l1"]
DISTANCES = {"l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}
VECTORS = 8192
"""Of each horizon at most, from which the best constant is found."""


class Curve(NamedTuple):
    """Of one level, errors of every sample at every time step after the cut.

    error: the prediction's; copied: of the last past step's representation, taken for that of the same place later on;
    constant: of the best predictor that is alike for all places and samples, at each step; frames: how many a time step spans.
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


def some_places(places: int, samples: int) -> Int[Tensor, " P"]:
    """Evenly spaced places of a grid, as many as give VECTORS vectors of all samples, or all of them."""
    kept = min(places, max(1, VECTORS // samples))
    return torch.linspace(0, places - 1, kept).round().long()


def constant_error(targets: Float[Tensor, "S D"], distance: Distance) -> Float[Tensor, ""]:
    """The error of the best predictor that ignores its input, one constant per dimension: of L1 the median."""
    if distance == "smooth_l1":
        return constant_loss(targets)
    return F.l1_loss(targets, targets.median(0).values.expand_as(targets))


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
            said.append(
                against(f"level {number}", beaten, curve, f"level {number - 1}, each in shares of its best constant's error,")
            )
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
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("frames ahead")
    axes.set_ylabel("error / best constant's error")
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=8)
    return figure
