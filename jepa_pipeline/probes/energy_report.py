"""What an energy-based look at a run found, as it is kept and as it is printed."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from jepa_pipeline.config.section import Section
from jepa_pipeline.probes.auroc import separate
from jepa_pipeline.probes.energies import Measured
from jepa_pipeline.probes.negatives import Continuation, stays_true

INTERVAL = "AUROC: Wilson's of as many trials as have DeLong's variance of paired placements; own: Wilson; both 95 %"
WIDE = 100
"""Columns in which a line of a table has room."""
MOST_MARGIN = 99
"""Deviations that a line has room for."""


class Place(Section):
    """Of what an energy is."""

    level: int = Field(ge=1, description="Of the stack, counted from the pixels up; 1 of methods without one.")
    horizon: int | None = Field(
        description="Time step of the level after the cut, counted from 1; null: the whole future, or an image's hidden part."
    )
    frames: tuple[int, int] | None = Field(
        description="First and last frame of it, counted from the last past one; null for images."
    )
    seconds: float | None = Field(description="Of the last frame of it after the last past one; null where fps is not known.")
    n: int = Field(ge=2, description="Samples.")


class SeparationRow(Place):
    """How well energies tell the truth from one alternative."""

    alternative: Continuation = Field(description="What was put in the truth's place.")
    auroc: float = Field(ge=0, le=1, description="Share of pairs, one true and one alternative energy, with the latter higher.")
    ci95: tuple[float, float] = Field(description="95 % interval of it, see intervals.")
    margin: float | None = Field(description="Difference of the means over the pooled standard deviation; null if neither varies.")
    own: float = Field(ge=0, le=1, description="Share of samples whose own alternative has the higher energy.")
    own_ci95: tuple[float, float] = Field(description="95 % Wilson interval of it.")


class ErrorRow(Place):
    """The error of the prediction beside those of predictors that know nothing."""

    error: float = Field(ge=0, description="Mean over samples, places and channels of the method's own distance.")
    copy_last: float | None = Field(description="Of the last past step's representation repeated; null for images.")
    constant: float = Field(
        ge=0,
        description="Of the best constant of each place and channel; those of either half of the samples are found from the other.",
    )


class EnergyReport(Section):
    """All that one look found, and on what."""

    data: str = Field(description="Name of the data set.")
    location: str = Field(description="Folder or URL of its shards.")
    data_hash: str = Field(description="Of its manifest.")
    config_hash: str = Field(description="Of the run's configuration.")
    checkpoint_hash: str = Field(description="SHA-256 of the checkpoint's files.")
    step: int = Field(description="Optimizer steps the networks were trained for.")
    version: str = Field(description="Of jepa_pipeline.")
    device: str = Field(description="Where it was computed: cpu or cuda.")
    seed: int = Field(description="Key of the samples, of masks and of shuffled futures.")
    samples: int = Field(description="Samples looked at.")
    past_frames: int | None = Field(description="Frames of a clip before the cut; null for images.")
    intervals: str = Field(default=INTERVAL, description="Which intervals these are.")
    separations: list[SeparationRow] = Field(description="Energies of the truth beside those of alternatives.")
    errors: list[ErrorRow] = Field(description="Errors beside those of baselines.")
    flattered: bool = Field(description="Whether copy_last is, for targets see the whole clip (full attention).")
    said: list[str] = Field(description="What can be said of the errors beyond chance, and what was left out.")
    pictures: list[str] = Field(description="Files beside this one.")
    colors: list[tuple[float, float]] = Field(description="Of each level, the errors of the darkest and the brightest color.")


def places(measured: Measured, level: int, fps: float | None) -> Iterator[tuple[Place, slice]]:
    """Every horizon of a level, counted from 0, and the whole, with the steps that belong to it."""
    samples, steps = measured.energies["true"][level].shape
    if not measured.curves:
        yield Place(level=level + 1, horizon=None, frames=None, seconds=None, n=samples), slice(None)
        return
    span = measured.curves[level].frames
    for horizon, first, last in [*((step + 1, step, step + 1) for step in range(steps)), (None, 0, steps)]:
        seconds = None if fps is None else last * span / fps
        frames = (first * span + 1, last * span)
        yield Place(level=level + 1, horizon=horizon, frames=frames, seconds=seconds, n=samples), slice(first, last)


def separation_rows(measured: Measured, fps: float | None) -> list[SeparationRow]:
    """Of every level, horizon and alternative; without horizons at which an alternative has the true frames."""
    future = [curve.frames * curve.error.shape[1] for curve in measured.curves]
    return [
        SeparationRow(**place.model_dump(), alternative=name, **separate(over(true, steps), over(levels[level], steps))._asdict())
        for level, true in enumerate(measured.energies["true"])
        for place, steps in places(measured, level, fps)
        for name, levels in measured.energies.items()
        if name != "true" and not (place.frames and stays_true(name, place.frames[0] - 1, place.frames[1], future[level]))
    ]


def over(energies: Tensor, steps: slice) -> Tensor:
    return energies[:, steps].mean(1)


def error_rows(measured: Measured, fps: float | None) -> list[ErrorRow]:
    """Of every level and horizon."""
    rows = []
    for level, (true, constant) in enumerate(zip(measured.energies["true"], measured.constants, strict=True)):
        for place, steps in places(measured, level, fps):
            copied = float(measured.curves[level].copied[:, steps].mean()) if measured.curves else None
            error, alike = float(true[:, steps].mean()), float(constant[steps].mean())
            rows.append(ErrorRow(**place.model_dump(), error=error, copy_last=copied, constant=alike))
    return rows


def energy_key(report: EnergyReport, pictures: int) -> str:
    """The same question put to the same weights, with as many pictures, has the same name."""
    asked = report.model_dump_json(include={"data_hash", "checkpoint_hash", "past_frames", "samples", "seed"})
    return hashlib.sha256(f"{asked} {pictures}".encode()).hexdigest()[:12]


def show(report: EnergyReport, path: Path) -> None:
    """Print how well truth is told from each alternative, the errors, what both say, and where all was written."""
    console = Console()
    console = Console(width=max(console.width, WIDE))
    console.print(separation_table(report.separations, report.samples))
    console.print(error_table(report.errors, report.flattered))
    for sentence in [*own_sentences(report.separations), *report.said]:
        console.print(sentence, soft_wrap=True, markup=False, highlight=False)
    files = ", ".join([path.name, *report.pictures])
    console.print(f"written to {path.parent}: {files}", soft_wrap=True, markup=False, highlight=False)


def place_sentences(measured: Measured) -> list[str]:
    """Of which places the best constants are, of levels with too many to keep all."""
    return [
        f"level {level}: the best constants are of {kept} of its {places} places, evenly spaced, which is what memory is kept for"
        for level, (kept, places) in enumerate(measured.places, start=1)
        if kept < places
    ]


def separation_table(rows: Sequence[SeparationRow], samples: int) -> Table:
    names = list(dict.fromkeys(row.alternative for row in rows))
    caption = "against the true one: AUROC in %, its 95 % interval, margin in standard deviations"
    caption += "; targets know the frames they attend to"
    table = new_table(f"energies of {samples} samples", caption, rows, names)
    for row in rows:
        if row.alternative == names[0]:
            same = {other.alternative: cell(other) for other in rows if (other.level, other.horizon) == (row.level, row.horizon)}
            table.add_row(*where(row, rows), *(same.get(name, "") for name in names))
    return table


def error_table(rows: Sequence[ErrorRow], flattered: bool) -> Table:
    copied = rows[0].copy_last is not None
    columns = ["error", *(["copy last"] if copied else []), "best constant", "error %", *(["copy last %"] if copied else [])]
    caption = "in percent of the best constant's of each place"
    if flattered:
        caption += "; copying the last past step is flattered, for its target sees the whole clip (full attention)"
    table = new_table("errors of prediction", caption, rows, columns)
    for row in rows:
        values = [row.error] if row.copy_last is None else [row.error, row.copy_last]
        shares = [f"{100 * value / row.constant:.1f}" if row.constant else "" for value in values]
        table.add_row(*where(row, rows), *(f"{value:.4f}" for value in [*values, row.constant]), *shares)
    return table


def new_table(title: str, caption: str, rows: Sequence[Place], columns: Sequence[str]) -> Table:
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.padding = (0, 0, 0, 1)
    seconds = ["s"] if any(row.seconds is not None for row in rows) else []
    frames = ["frames"] if any(row.frames is not None for row in rows) else []
    for column in ("level", *frames, *seconds, *columns):
        table.add_column(column, no_wrap=True)
    return table


def where(row: Place, rows: Sequence[Place]) -> list[str]:
    """The first cells of a line."""
    cells = [str(row.level)]
    if row.frames is not None:
        first, last = row.frames
        cells.append("all" if row.horizon is None else str(last) if first == last else f"{first}-{last}")
    if any(other.seconds is not None for other in rows):
        cells.append("" if row.seconds is None else f"{row.seconds:.2f}")
    return cells


def cell(row: SeparationRow) -> str:
    margin = "" if row.margin is None else f"{row.margin:+.1f}" if abs(row.margin) < 9.95 else f"{row.margin:+.0f}"
    if row.margin is not None and abs(row.margin) > MOST_MARGIN:
        margin = f">{MOST_MARGIN}" if row.margin > 0 else f"<-{MOST_MARGIN}"
    return f"{100 * row.auroc:.1f} {100 * row.ci95[0]:.0f}-{100 * row.ci95[1]:.0f} {margin}".rstrip()


def own_sentences(rows: Sequence[SeparationRow]) -> list[str]:
    """Of each level, in how many samples the sample's own alternative has the higher energy."""
    said = []
    for level in dict.fromkeys(row.level for row in rows):
        whole = [row for row in rows if row.level == level and row.horizon is None]
        found = (
            f"{row.alternative} {100 * row.own:.1f} % ({100 * row.own_ci95[0]:.1f}-{100 * row.own_ci95[1]:.1f})" for row in whole
        )
        said.append(f"level {level} gives the alternative the higher energy of the two of one sample: {', '.join(found)}")
    return said
