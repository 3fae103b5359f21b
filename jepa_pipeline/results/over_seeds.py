"""Runs that differ in nothing but their seed as one row of a table, with the means of their accuracies."""

import json
import os
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from jepa_pipeline.results.confidence_interval import mean_interval
from jepa_pipeline.results.probe_report import EncoderName
from jepa_pipeline.results.run_summary import AccuracyKey, ProbeResult, RunSummary
from jepa_pipeline.results.tables import EMPTY, Cell, Table

INTERVALS = (
    "95 % intervals: of the mean over seeds (Student's t) in rows of several runs, of the test samples (Wilson) in rows of a "
    "single one"
)


class SeedGroup(NamedTuple):
    """Runs of one configuration but for the seed, or a single encoder folder; their name in tables is what their names share."""

    name: str
    runs: list[RunSummary]


class Accuracy(NamedTuple):
    """The accuracies of the runs of a group, their mean and its interval, and the steps of the encoders that were probed."""

    values: list[float]
    mean: float
    ci95: tuple[float, float]
    steps: list[int]


def group_by_seed(summaries: Sequence[RunSummary], keys: Sequence[str]) -> list[SeedGroup]:
    """Return runs in groups, in order. keys: of the configuration, in which runs of a group are equal."""
    groups: dict[str, list[RunSummary]] = {}
    for run in summaries:
        identity = json.dumps([run.values.get(key, EMPTY) for key in keys]) if run.values else str(run.folder)
        groups.setdefault(identity, []).append(run)
    return [SeedGroup(shared_name([run.name for run in runs]), runs) for runs in groups.values()]


def shared_name(names: Sequence[str]) -> str:
    """Return what names share at their start, without a separator at its end; the first name if that is nothing."""
    if len(names) == 1:
        return names[0]
    return os.path.commonprefix(list(names)).rstrip("-_.") or names[0]  # noqa: RUF071  # letters of names, not parts of paths


def seed_table(groups: Sequence[SeedGroup], keys: Sequence[str], columns: Mapping[AccuracyKey, str]) -> Table:
    """Return a row for each group, and for each level of a stack."""
    rows = [(group, row.level) for group in groups for row in group.runs[0].rows]
    header = ["run", "level", "seeds", *keys, "state", "step", *columns.values()]
    cells = [
        [
            Cell(group.name, {"run": group.name}),
            Cell(level or EMPTY, {"level": level} if level else {}),
            Cell(str(len(group.runs)), {"seeds": len(group.runs)}),
            *(config_cell(group.runs[0], key) for key in keys),
            Cell(common([run.state for run in group.runs]), {"state": common([run.state for run in group.runs])}),
            Cell(common([str(run.step) for run in group.runs]), {"step": common([str(run.step) for run in group.runs])}),
            *(accuracy_cell(title, measure(group, level, key), len(group.runs)) for key, title in columns.items()),
        ]
        for group, level in rows
    ]
    return Table(header, cells, frozenset() if any(level for _, level in rows) else frozenset(["level"]))


def config_cell(run: RunSummary, key: str) -> Cell:
    if key not in run.values:
        return Cell(record={key: ""})
    value = run.values[key]
    text = value if isinstance(value, str) else json.dumps(value)
    return Cell(text, {key: text})


def common(texts: Sequence[str]) -> str:
    return " / ".join(dict.fromkeys(texts))


def measure(group: SeedGroup, level: EncoderName | None, key: AccuracyKey) -> Accuracy | None:
    """Return the accuracies of a group at a level; None if no run of it was probed."""
    found = (run.accuracies.get(level, {}).get(key) for run in group.runs)
    results: list[ProbeResult] = [result for result in found if result is not None]
    values = [result.row.top1 for result in results]
    if not values:
        return None
    interval = mean_interval(values) if len(values) > 1 else results[0].row.ci95
    return Accuracy(values, fmean(values), interval, sorted({result.step for result in results}))


def accuracy_cell(title: str, accuracy: Accuracy | None, runs: int) -> Cell:
    """Return a mean in percent with its interval; in the CSV file shares."""
    names = [f"{title}{suffix}" for suffix in ("", " low", " high", " seeds")]
    if accuracy is None:
        return Cell(record=dict.fromkeys(names, ""))
    low, high = accuracy.ci95
    count = len(accuracy.values)
    text = f"{100 * accuracy.mean:.2f} ({100 * low:.1f}–{100 * high:.1f}{f'; {count} of {runs}' if count < runs else ''})"
    return Cell(text, dict(zip(names, (accuracy.mean, low, high, count), strict=True)), accuracy.mean)


def seed_details(groups: Sequence[SeedGroup], columns: Mapping[AccuracyKey, str]) -> list[dict[str, Any]]:
    """Return the groups for the JSON file."""
    return [
        {
            "run": group.name,
            "folders": [str(run.folder) for run in group.runs],
            "seeds": [run.values.get("seed") for run in group.runs],
            "probes": [
                {"data": key.data, "data_hash": key.hashes, "column": key.column, "level": row.level, **accuracy._asdict()}
                for row in group.runs[0].rows
                for key in columns
                if (accuracy := measure(group, row.level, key)) is not None
            ],
        }
        for group in groups
    ]
