"""`jepa table`: runs at a glance, where their configurations differ and what came of them."""

import json
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.run import FREE
from jepa_pipeline.probes.report import EncoderName
from jepa_pipeline.probes.runs import commit_of
from jepa_pipeline.probes.sheet import NOTHING, Sheet, best_cells, print_sheet, write_sheet
from jepa_pipeline.training.run_summary import Glance, Place, Probed, glances

MEASURES = {
    "loss": ("loss", 4),
    "health/predictor_r2": ("predictor_r2", 3),
    "health/target_rankme": ("target rank", 1),
    "health/feature_rankme": ("feature rank", 1),
    "samples_per_s": ("samples/s", 0),
}
"""What is shown of the log, what it is called and with how many decimals."""
MOST_KEYS = 8
"""Differing keys that are printed at most."""
ALWAYS_DIFFER = ("name", "output")
MOST_NAMES = 5
"""Keys, or folders that are no runs, that are named at most."""


class Line(NamedTuple):
    """A run, or a level of one that is a stack. level: None of no stack; first: whether the numbers of the whole run are here."""

    run: Glance
    level: EncoderName | None
    first: bool

    @property
    def measured(self) -> dict[str, float | int]:
        """The newest numbers of the log."""
        whole = self.run.measured if self.first else {}
        prefix = f"{self.level}/"
        return whole | {key.removeprefix(prefix): number for key, number in self.run.measured.items() if key.startswith(prefix)}

    @property
    def probed(self) -> dict[Place, Probed]:
        """The accuracies."""
        return self.run.probed.get(self.level, {})


def lines_of(seen: Sequence[Glance]) -> list[Line]:
    """One a run, of a stack one a level."""
    return [Line(one, level, number == 0) for one in seen for number, level in enumerate(one.levels or [None])]


def table(runs: Sequence[Path], out: Path | None = None) -> None:
    """Print runs side by side: where their configurations differ, how far they are and what came of them.

    Args:
        runs: run folders, also of runs that failed or were submitted and have not begun; what is none is left out.
        out: where to write the same as OUT.md, OUT.csv and OUT.json. The first of the keys that all runs have and that differ are
            printed; the Markdown has all of these, CSV and JSON also those that only some runs have.

    A stack has a line for each level, with that level's health and accuracies, and one for all of them together if that was
    probed; what is measured of the whole run stands in the first.

    Raises:
        UserError: no run is there.
    """
    seen = glances(runs)
    if not seen:
        if not any(run.is_dir() for run in runs):
            raise UserError(f"no folder {runs[0]}: give run folders, such as runs/*")
        raise UserError(f"{runs[0]} is no run: it has no config.yaml and was not submitted; give run folders, such as runs/*")
    known = [one.values for one in seen if one.values]
    keys, columns = differing(known), places(seen)
    shared = [key for key in keys if all(key in values for values in known)]
    print_sheet(sheet_of(seen, shared[:MOST_KEYS], columns))
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if rest := [key for key in keys if key not in shared[:MOST_KEYS]]:
        console.print(
            f"they differ in {len(rest)} more {'keys' if len(rest) > 1 else 'key'} ({some(rest)}), which --out PREFIX writes"
        )
    if others := [str(path) for path in dict.fromkeys(runs) if path not in {one.folder for one in seen}]:
        console.print(f"left out: {len(others)} without config.yaml that were not submitted as runs ({some(others)})")
    for trouble in (trouble for one in seen for trouble in one.troubles):
        console.print(trouble)
    if out is not None:
        records = [record(line, keys, columns) for line in lines_of(seen)]
        document = [detail(one, keys) for one in seen]
        for path in write_sheet(out, sheet_of(seen, shared, columns), records, document):
            console.print(f"written to {path}")


def some(names: Sequence[str]) -> str:
    return ", ".join([*names[:MOST_NAMES], *(["..."] if len(names) > MOST_NAMES else [])])


def differing(configs: Sequence[dict[str, Any]]) -> list[str]:
    """The keys in which configurations differ, last those that change no result."""
    keys = dict.fromkeys(key for values in configs for key in values if key not in ALWAYS_DIFFER)
    found = [key for key in keys if len({json.dumps(values.get(key, NOTHING)) for values in configs}) > 1]
    return sorted(found, key=lambda key: key.startswith(FREE))


def places(seen: Sequence[Glance]) -> dict[Place, str]:
    """The columns of accuracies and their names; data sets of one name are told apart by their hashes."""
    found = sorted(dict.fromkeys(place for line in lines_of(seen) for place in line.probed), key=lambda place: place[:2])
    sets = {place[:2] for place in found}
    shared = {data for data, hashes in sets if (data, hashes) != min(pair for pair in sets if pair[0] == data)}
    return {place: f"{place.data}{f' ({place.hashes})' if place.data in shared else ''} {place.column}" for place in found}


def sheet_of(seen: Sequence[Glance], keys: Sequence[str], columns: dict[Place, str]) -> Sheet:
    """The runs as they are read, last what changes no result; measures and accuracies that no run has are left out."""
    lines = lines_of(seen)
    shown = [key for key in MEASURES if any(key in line.measured for line in lines)]
    free, stacks = [key for key in keys if key.startswith(FREE)], any(line.level for line in lines)
    first = [
        "run",
        *(["level"] if stacks else []),
        *(key for key in keys if key not in free),
        "state",
        "step",
        *(MEASURES[key][0] for key in shown),
    ]
    rows = [
        [
            line.run.name,
            *([line.level or NOTHING] if stacks else []),
            *(value(line.run, key) for key in keys if key not in free),
            line.run.state,
            f"{line.run.step}/{line.run.total or NOTHING}",
            *(f"{line.measured[key]:.{MEASURES[key][1]}f}" if key in line.measured else NOTHING for key in shown),
            *(accuracy(line.probed.get(place), line.run.step) for place in columns),
            *(value(line.run, key) for key in free),
        ]
        for line in lines
    ]
    numbers = [[found and found.row.top1 for found in (line.probed.get(place) for place in columns)] for line in lines]
    return Sheet([*first, *columns.values(), *free], rows, best_cells(numbers, len(first)))


def value(one: Glance, key: str) -> str:
    return text(one.values[key]) if key in one.values else NOTHING


def text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def accuracy(found: Probed | None, step: int) -> str:
    """Per cent, and the step of the encoder where that is not the run's."""
    if found is None:
        return NOTHING
    return f"{100 * found.row.top1:.2f}" + ("" if found.step == step else f" at {found.step}")


def record(line: Line, keys: Sequence[str], columns: dict[Place, str]) -> dict[str, Any]:
    """A run, or a level of one, for a CSV file; accuracies are shares."""
    one = line.run
    values = {
        "run": one.name,
        **({"level": line.level} if line.level else {}),
        "folder": str(one.folder),
        **{key: text(one.values[key]) if key in one.values else "" for key in keys},
    }
    values |= {"state": one.state, "step": one.step, "total_steps": one.total}
    values |= {title: line.measured.get(key, "") for key, (title, _) in MEASURES.items()}
    for place, title in columns.items():
        found = line.probed.get(place)
        values |= {title: found.row.top1 if found else "", f"{title} step": found.step if found else ""}
    return values


def plain(number: float) -> float | str:
    """As JSON has it, which knows no nan."""
    return number if isfinite(number) else str(number)


def detail(one: Glance, keys: Sequence[str]) -> dict[str, Any]:
    """A run for a JSON file."""
    lines = lines_of([one])
    probes = [
        {"data": place.data, "data_hash": place.hashes, "step": found.step, **found.row.model_dump(mode="json")}
        for line in lines
        for place, found in line.probed.items()
    ]
    return {
        "run": one.name,
        "folder": str(one.folder),
        "state": one.state,
        "config_hash": one.config and one.config.hash(),
        "commit": commit_of(one.folder),
        "differing": {key: one.values[key] for key in keys if key in one.values},
        "step": one.step,
        "total_steps": one.total,
        **measures(lines[0]),
        **({"levels": {line.level: measures(line) for line in lines[1:]}} if lines[1:] else {}),
        "probes": probes,
    }


def measures(line: Line) -> dict[str, float | str]:
    return {title: plain(line.measured[key]) for key, (title, _) in MEASURES.items() if key in line.measured}
