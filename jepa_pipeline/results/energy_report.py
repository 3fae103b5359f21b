"""The report of `jepa energy`: its records on disk, and how it is printed."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field
from rich.console import Console
from rich.table import Table

from jepa_pipeline.config.section import Section
from jepa_pipeline.console import print_plain
from jepa_pipeline.results.tables import new_table

Candidate = Literal["true", "other", "shuffled", "reversed", "frozen"]
"""Futures that follow the past of a clip: its own; another clip's; its own with every frame moved, or reversed; or its last past
frame, repeated. Of an image, its masked patches; another image's; or its own, each moved to another masked position."""

INTERVAL = "AUROC: Wilson's of as many trials as have DeLong's variance of paired placements; own: Wilson; both 95 %"
WIDTH = 100
"""Columns of a console that fit the tables."""
MAX_MARGIN = 99
"""Largest margin that is printed, in standard deviations."""


class EnergyRow(Section):
    """The level and the time that a row is about."""

    level: int = Field(ge=1, description="Level of the stack, counted from the pixels up; 1 for a single JEPA.")
    horizon: int | None = Field(
        description="Time step of the level after the past, counted from 1; null: the whole future, or the masked part of an image."
    )
    frames: tuple[int, int] | None = Field(description="First and last frame, counted from the last past frame; null for images.")
    seconds: float | None = Field(description="Time from the last past frame to the last frame; null if fps is unknown.")
    n: int = Field(ge=2, description="Samples.")


class SeparationRow(EnergyRow):
    """The separation by energies of the truth and one alternative."""

    alternative: Candidate = Field(description="Replacement of the truth.")
    auroc: float = Field(
        ge=0, le=1, description="Share of pairs of a true and an alternative energy, in which the latter is higher."
    )
    ci95: tuple[float, float] = Field(description="95 % interval of auroc, see intervals.")
    margin: float | None = Field(description="Difference of the means over the pooled standard deviation; null if that is 0.")
    own: float = Field(ge=0, le=1, description="Share of samples whose own alternative has the higher energy.")
    own_ci95: tuple[float, float] = Field(description="95 % Wilson interval of own.")


class ErrorRow(EnergyRow):
    """The error of the prediction, and of baselines."""

    error: float = Field(ge=0, description="Distance of the method, averaged over samples, tokens and channels.")
    copy_last: float | None = Field(description="Error of the last past step's representation, repeated; null for images.")
    constant: float = Field(
        ge=0,
        description="Error of the best constant of each position and channel, fitted to the other half of the samples.",
    )


class EnergyReport(Section):
    """All results of one evaluation of the energy."""

    data: str = Field(description="Name of the data set.")
    location: str = Field(description="Folder or URL of its shards.")
    data_hash: str = Field(description="Hash of its manifest.")
    config_hash: str = Field(description="Hash of the run's configuration.")
    checkpoint_hash: str = Field(description="SHA-256 of the checkpoint's files.")
    step: int = Field(description="Optimizer steps the networks were trained for.")
    version: str = Field(description="Version of jepa_pipeline.")
    device: str = Field(description="Device: cpu or cuda.")
    seed: int = Field(description="Seed of the samples, masks and shuffled futures.")
    samples: int = Field(description="Number of samples.")
    past_frames: int | None = Field(description="Past frames of a clip; null for images.")
    intervals: str = Field(default=INTERVAL, description="Kinds of the intervals.")
    separations: list[SeparationRow] = Field(description="Energies of the truth against those of alternatives.")
    errors: list[ErrorRow] = Field(description="Errors of the prediction and of baselines.")
    flattered: bool = Field(description="Whether copy_last is optimistic, as targets attend to the whole clip (full attention).")
    said: list[str] = Field(description="Conclusions beyond chance, and what was left out.")
    pictures: list[str] = Field(description="Files next to this one.")
    colors: list[tuple[float, float]] = Field(description="Errors of the darkest and the brightest color, by level.")


def energy_key(report: EnergyReport, pictures: int) -> str:
    """Return a key that is equal for the same evaluation of the same weights with as many pictures."""
    settings = report.model_dump_json(include={"data_hash", "checkpoint_hash", "past_frames", "samples", "seed"})
    return hashlib.sha256(f"{settings} {pictures}".encode()).hexdigest()[:12]


def print_energy_report(report: EnergyReport, path: Path) -> None:
    """Print the separations and the errors, the conclusions, and the files that were written."""
    console = Console()
    console = Console(width=max(console.width, WIDTH))
    console.print(separation_table(report.separations, report.samples))
    console.print(error_table(report.errors, report.flattered))
    files = ", ".join([path.name, *report.pictures])
    for sentence in [*own_sentences(report.separations), *report.said, f"written to {path.parent}: {files}"]:
        print_plain(console, sentence)


def separation_table(rows: Sequence[SeparationRow], samples: int) -> Table:
    """Return a table with a row per level and horizon, and a column per alternative."""
    names = list(dict.fromkeys(row.alternative for row in rows))
    caption = "against the true one: AUROC in %, its 95 % interval, margin in standard deviations"
    caption += "; targets know the frames they attend to"
    table = table_of_horizons(f"energies of {samples} samples", caption, rows, names)
    for row in rows:
        if row.alternative == names[0]:
            cells = {
                other.alternative: separation_cell(other)
                for other in rows
                if (other.level, other.horizon) == (row.level, row.horizon)
            }
            table.add_row(*horizon_cells(row, rows), *(cells.get(name, "") for name in names))
    return table


def error_table(rows: Sequence[ErrorRow], flattered: bool) -> Table:
    """Return a table with a row per level and horizon. flattered: whether the caption warns of copy_last."""
    copied = rows[0].copy_last is not None
    columns = ["error", *(["copy last"] if copied else []), "best constant", "error %", *(["copy last %"] if copied else [])]
    caption = "in percent of the best constant of each position"
    if flattered:
        caption += "; copying the last past step is flattered, because its target attends to the whole clip (full attention)"
    table = table_of_horizons("errors of prediction", caption, rows, columns)
    for row in rows:
        values = [row.error] if row.copy_last is None else [row.error, row.copy_last]
        shares = [f"{100 * value / row.constant:.1f}" if row.constant else "" for value in values]
        table.add_row(*horizon_cells(row, rows), *(f"{value:.4f}" for value in [*values, row.constant]), *shares)
    return table


def table_of_horizons(title: str, caption: str, rows: Sequence[EnergyRow], columns: Sequence[str]) -> Table:
    table = new_table(title, caption)
    seconds = ["s"] if any(row.seconds is not None for row in rows) else []
    frames = ["frames"] if any(row.frames is not None for row in rows) else []
    for column in ("level", *frames, *seconds, *columns):
        table.add_column(column, no_wrap=True)
    return table


def horizon_cells(row: EnergyRow, rows: Sequence[EnergyRow]) -> list[str]:
    """Return the first cells of a row: its level, frames and seconds."""
    cells = [str(row.level)]
    if row.frames is not None:
        first, last = row.frames
        cells.append("all" if row.horizon is None else str(last) if first == last else f"{first}-{last}")
    if any(other.seconds is not None for other in rows):
        cells.append("" if row.seconds is None else f"{row.seconds:.2f}")
    return cells


def separation_cell(row: SeparationRow) -> str:
    """Return AUROC, its interval and the margin in few characters."""
    margin = "" if row.margin is None else f"{row.margin:+.1f}" if abs(row.margin) < 9.95 else f"{row.margin:+.0f}"
    if row.margin is not None and abs(row.margin) > MAX_MARGIN:
        margin = f">{MAX_MARGIN}" if row.margin > 0 else f"<-{MAX_MARGIN}"
    return f"{100 * row.auroc:.1f} {100 * row.ci95[0]:.0f}-{100 * row.ci95[1]:.0f} {margin}".rstrip()


def own_sentences(rows: Sequence[SeparationRow]) -> list[str]:
    """Return per level a sentence with the share of samples whose own alternative has the higher energy."""
    sentences = []
    for level in dict.fromkeys(row.level for row in rows):
        shares = (
            f"{row.alternative} {100 * row.own:.1f} % ({100 * row.own_ci95[0]:.1f}-{100 * row.own_ci95[1]:.1f})"
            for row in rows
            if row.level == level and row.horizon is None
        )
        sentences.append(f"level {level} gives the alternative the higher energy of the two of one sample: {', '.join(shares)}")
    return sentences
