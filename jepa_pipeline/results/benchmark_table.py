"""The table of `jepa benchmark`: encoders of many runs on many data sets, each baseline once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jepa_pipeline.config.encoder_card import EncoderCard
from jepa_pipeline.results.levels import is_untrained, level_of
from jepa_pipeline.results.probe_report import EncoderName, ProbeReport, ProbeRow
from jepa_pipeline.results.run_folders import commit_of
from jepa_pipeline.results.tables import EMPTY, Cell, Table

Column = tuple[str, str]
"""Name of a data set, and ProbeRow.column."""


class ProbedRun(NamedTuple):
    """A run or a snapshot, and its reports by data set."""

    label: str
    folder: Path
    card: EncoderCard
    reports: dict[str, ProbeReport]

    def origin(self) -> dict[str, Any]:
        """Return where the encoder comes from, for CSV and JSON."""
        card = self.card
        return {
            "folder": str(self.folder),
            "method": card.method,
            "step": card.step,
            "samples": card.samples,
            "config_hash": card.config_hash,
            "commit": commit_of(self.folder),
        }


class EncoderRow(NamedTuple):
    """The accuracies of one encoder. For a baseline, `run` is the first run that was probed together with it."""

    label: str
    encoder: EncoderName
    run: ProbedRun
    accuracies: dict[Column, ProbeRow]

    def origin(self) -> dict[str, Any]:
        """Return where a trained encoder comes from; nothing for a baseline."""
        return {} if is_untrained(self.encoder) else self.run.origin()

    def details(self) -> dict[str, Any]:
        """Return the row for the JSON file, with the settings of each accuracy."""
        results: dict[str, dict[str, Any]] = {}
        for (data, column), row in self.accuracies.items():
            results.setdefault(data, {})[column] = row.model_dump(mode="json", exclude={"encoder"})
        details = {"run": self.label, "encoder": self.encoder, **self.origin()}
        if not is_untrained(self.encoder):
            reports = self.run.reports
            details["weights_hash"] = next(iter(reports.values())).weights_hash
            details["rankme"] = {
                name: found.rankme[self.encoder] for name, found in reports.items() if self.encoder in found.rankme
            }
        return {**details, "results": results}


def encoder_rows(runs: Sequence[ProbedRun]) -> list[EncoderRow]:
    """Return the rows of all encoders: those of the runs first, then each untrained baseline and the pixels once."""
    rows: dict[tuple[str, str], EncoderRow] = {}
    for run in runs:
        for data, report in run.reports.items():
            for name in report.encoders:
                row = rows.setdefault((name, identity(name, run)), EncoderRow(label(name, run), name, run, {}))
                for accuracy in report.headlines(name):
                    row.accuracies.setdefault((data, accuracy.column), accuracy)
    return sorted(rows.values(), key=lambda row: is_untrained(row.encoder))


def identity(name: EncoderName, run: ProbedRun) -> str:
    """Return a key that is equal for encoders whose accuracies are equal on every data set."""
    card = run.card
    if not is_untrained(name):
        return str(run.folder)
    if name == "pixels":
        return card.encoder.input_shape + card.model_dump_json(include={"clip"})
    return card.encoder.up_to_level(level_of(name)).model_dump_json() + card.model_dump_json(include={"clip", "mean", "std"})


def label(name: EncoderName, run: ProbedRun) -> str:
    """Return what the row is called: the run, the untrained architecture, or the size of the pixels."""
    if not is_untrained(name):
        return run.label
    encoder = run.card.encoder
    return encoder.input_shape if name == "pixels" else f"untrained {encoder.up_to_level(level_of(name)).describe()}"


def benchmark_table(rows: Sequence[EncoderRow], data: Sequence[str], intervals: bool) -> Table:
    """Return the accuracies in percent, with their 95 % intervals or without. data: names of the data sets, in order."""
    columns = sorted(dict.fromkeys(key for row in rows for key in row.accuracies), key=lambda key: data.index(key[0]))
    cells = []
    for row in rows:
        origin = row.origin()
        first = [Cell(row.label, {"run": row.label}), Cell(row.encoder, {"encoder": row.encoder})]
        first.append(Cell(str(origin["step"]) if origin else EMPTY, origin))
        cells.append([*first, *(accuracy_cell(column, row.accuracies.get(column), intervals) for column in columns)])
    return Table(["run", "encoder", "step", *(" ".join(column) for column in columns)], cells)


def accuracy_cell(column: Column, row: ProbeRow | None, interval: bool) -> Cell:
    """Return an accuracy in percent; in the CSV file it and the ends of its interval are shares."""
    keys = [" ".join(column) + suffix for suffix in ("", " low", " high")]
    if row is None:
        return Cell(record=dict.fromkeys(keys, ""))
    text = f"{100 * row.top1:.2f}" + (f" ({100 * row.ci95[0]:.1f}–{100 * row.ci95[1]:.1f})" if interval else "")
    return Cell(text, dict(zip(keys, (row.top1, *row.ci95), strict=True)), row.top1)
