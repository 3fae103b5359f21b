"""The numbers of many runs on many data sets: a line an encoder, the baselines once."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jepa_pipeline.models.weights import EncoderCard
from jepa_pipeline.probes.levels import is_untrained, level_of, up_to
from jepa_pipeline.probes.report import EncoderName, ProbeReport, Row
from jepa_pipeline.probes.runs import commit_of
from jepa_pipeline.probes.sheet import NOTHING, Sheet, best_cells
from jepa_pipeline.probes.table import PROTOCOLS, column, headline
from jepa_pipeline.probes.untrained import describe, input_size


class Entry(NamedTuple):
    """A run, or a snapshot of it, with its reports by data set."""

    label: str
    folder: Path
    card: EncoderCard
    reports: dict[str, ProbeReport]


Place = tuple[str, str]
"""A data set and what a protocol's column is called."""


class Line(NamedTuple):
    """An encoder's numbers. entry: the run, of baselines the first that was probed beside them."""

    label: str
    encoder: EncoderName
    entry: Entry
    found: dict[Place, Row]

    @property
    def trained(self) -> bool:
        return not is_untrained(self.encoder)


def ledger(entries: Sequence[Entry]) -> list[Line]:
    """Every line: those of the runs first, then each untrained twin and the pixels once."""
    lines: dict[tuple[str, str], Line] = {}
    for entry in entries:
        for name, report in entry.reports.items():
            for encoder in report.encoders:
                line = lines.setdefault((encoder, identity(encoder, entry)), Line(title(encoder, entry), encoder, entry, {}))
                for row in headlines(report, encoder):
                    line.found.setdefault((name, column(row)), row)
    return sorted(lines.values(), key=lambda line: not line.trained)


def headlines(report: ProbeReport, encoder: EncoderName) -> Iterator[Row]:
    for protocol in PROTOCOLS:
        if (row := headline(report.rows, encoder, protocol)) is not None:
            yield row


def identity(encoder: EncoderName, entry: Entry) -> str:
    """What is the same of encoders that have the same numbers on every data set."""
    if not is_untrained(encoder):
        return str(entry.folder)
    if encoder == "pixels":
        return input_size(entry.card.encoder) + entry.card.model_dump_json(include={"clip"})
    shape = up_to(entry.card.encoder, level_of(encoder)).model_dump_json()
    return shape + entry.card.model_dump_json(include={"clip", "mean", "std"})


def title(encoder: EncoderName, entry: Entry) -> str:
    if not is_untrained(encoder):
        return entry.label
    if encoder == "pixels":
        return input_size(entry.card.encoder)
    return f"untrained {describe(up_to(entry.card.encoder, level_of(encoder)))}"


def places(lines: Sequence[Line], names: Sequence[str]) -> list[Place]:
    """The columns, in order of the data sets and of the protocols."""
    found = dict.fromkeys(place for line in lines for place in line.found)
    return sorted(found, key=lambda place: names.index(place[0]))


def ledger_sheet(lines: Sequence[Line], names: Sequence[str], intervals: bool) -> Sheet:
    """Accuracies in percent, with their 95 % intervals if asked for."""
    columns = places(lines, names)
    cells = [[line.found.get(place) for place in columns] for line in lines]
    rows = [
        [
            line.label,
            line.encoder,
            str(line.entry.card.step) if line.trained else NOTHING,
            *(percent(row, intervals) for row in row),
        ]
        for line, row in zip(lines, cells, strict=True)
    ]
    best = best_cells([[row and row.top1 for row in line] for line in cells], first=3)
    return Sheet(["run", "encoder", "step", *(" ".join(place) for place in columns)], rows, best)


def percent(row: Row | None, interval: bool) -> str:
    if row is None:
        return NOTHING
    return f"{100 * row.top1:.2f}" + (f" ({100 * row.ci95[0]:.1f}–{100 * row.ci95[1]:.1f})" if interval else "")


def record(line: Line, columns: Sequence[Place]) -> dict[str, Any]:
    """A line for a CSV file; accuracies are shares."""
    values: dict[str, Any] = {"run": line.label, "encoder": line.encoder} | (origin(line.entry) if line.trained else {})
    for place in columns:
        row = line.found.get(place)
        numbers = (row.top1, *row.ci95) if row else ("", "", "")
        values |= zip((f"{' '.join(place)}{end}" for end in ("", " low", " high")), numbers, strict=True)
    return values


def origin(entry: Entry) -> dict[str, Any]:
    """Where an encoder comes from."""
    card = entry.card
    return {
        "folder": str(entry.folder),
        "method": card.method,
        "step": card.step,
        "samples": card.samples,
        "config_hash": card.config_hash,
        "commit": commit_of(entry.folder),
    }


def detail(line: Line) -> dict[str, Any]:
    """A line for a JSON file, with the settings of each number."""
    results: dict[str, dict[str, Any]] = {}
    for (name, title), row in line.found.items():
        results.setdefault(name, {})[title] = row.model_dump(mode="json", exclude={"encoder"})
    if not line.trained:
        return {"run": line.label, "encoder": line.encoder, "results": results}
    ranks = {name: report.rankme[line.encoder] for name, report in line.entry.reports.items() if line.encoder in report.rankme}
    weights = next(iter(line.entry.reports.values())).weights_hash
    return {
        "run": line.label,
        "encoder": line.encoder,
        **origin(line.entry),
        "weights_hash": weights,
        "rankme": ranks,
        "results": results,
    }
