"""`jepa table`: runs side by side, where their configurations differ and how they turned out."""

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.output_place import check_place
from jepa_pipeline.config.run import RESULT_NEUTRAL_KEYS
from jepa_pipeline.console import print_plain
from jepa_pipeline.results.over_seeds import INTERVALS, config_cell, group_by_seed, seed_details, seed_table
from jepa_pipeline.results.run_folders import commit_of
from jepa_pipeline.results.run_summary import AccuracyKey, ProbeResult, RunSummary, SummaryRow, summarize_runs
from jepa_pipeline.results.tables import EMPTY, Cell, Table, print_table, write_table

METRICS = {
    "loss": ("loss", 4),
    "health/predictor_r2": ("predictor_r2", 3),
    "health/target_rankme": ("target rank", 1),
    "health/feature_rankme": ("feature rank", 1),
    "samples_per_s": ("samples/s", 0),
}
"""Keys of the log that are shown, their titles and decimals."""
PRINTED_KEYS = 8
"""Configuration keys that are printed at most."""
ALWAYS_DIFFERENT = ("name", "output")
NAMED = 5
"""Keys, or folders that are no runs, that a sentence names at most."""


def table(runs: Sequence[Path], out: Path | None = None, over_seeds: bool = False) -> None:
    """Print runs side by side: where their configurations differ, how far they are, and their newest metrics and accuracies.

    A stack has a row per level, with that level's metrics and accuracies, and one for all levels together if they were probed;
    metrics of the whole run are in the first row.

    Args:
        runs: run folders, also of runs that failed or that were submitted and have not started, and encoder folders, such as
            imported ones; other folders are skipped.
        out: prefix of OUT.md, OUT.csv and OUT.json. The console shows the first of the keys that all runs have and that differ,
            the Markdown all of these, CSV and JSON also those that only some runs have.
        over_seeds: one row for all runs that differ in nothing but the seed, with the mean of their accuracies and its interval.

    Raises:
        UserError: there is no run, or the table cannot be written.
    """
    if out is not None:
        check_place(out)
    summaries = summarize_runs(runs)
    if not summaries:
        if not any(run.is_dir() for run in runs):
            raise UserError(f"no folder {runs[0]}: give run folders, such as runs/*")
        raise UserError(f"{runs[0]} is not a run: it has no config.yaml and was not submitted; give run folders, such as runs/*")
    configs = [summary.values for summary in summaries if summary.values]
    keys, columns = differing_keys(configs), accuracy_columns(summaries)
    if over_seeds:
        keys = [key for key in keys if key != "seed" and not key.startswith(RESULT_NEUTRAL_KEYS)]
    shared = [key for key in keys if all(key in values for values in configs)]
    groups = group_by_seed(summaries, keys)
    runs_table = seed_table(groups, keys, columns) if over_seeds else build_table(summaries, keys, columns)
    print_table(hide(runs_table, keys, shared[:PRINTED_KEYS]))
    if over_seeds:
        print_plain(None, INTERVALS)
    if rest := [key for key in keys if key not in shared[:PRINTED_KEYS]]:
        noun = "keys" if len(rest) > 1 else "key"
        print_plain(None, f"they differ in {len(rest)} more {noun} ({first_few(rest)}), which --out PREFIX writes")
    if skipped := [str(path) for path in dict.fromkeys(runs) if path not in {summary.folder for summary in summaries}]:
        print_plain(None, f"skipped: {len(skipped)} without config.yaml that were not submitted as runs ({first_few(skipped)})")
    for problem in (problem for summary in summaries for problem in summary.problems):
        print_plain(None, problem)
    if out is not None:
        details = seed_details(groups, columns) if over_seeds else [run_details(summary, keys) for summary in summaries]
        for path in write_table(out, hide(runs_table, keys, shared), details, [INTERVALS] if over_seeds else []):
            print_plain(None, f"written to {path}")


def first_few(names: Sequence[str]) -> str:
    return ", ".join([*names[:NAMED], *(["..."] if len(names) > NAMED else [])])


def differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys in which configurations differ, last those that change no result."""
    keys = dict.fromkeys(key for values in configs for key in values if key not in ALWAYS_DIFFERENT)
    differing = [key for key in keys if len({json.dumps(values.get(key, EMPTY)) for values in configs}) > 1]
    return sorted(differing, key=lambda key: key.startswith(RESULT_NEUTRAL_KEYS))


def accuracy_columns(summaries: Sequence[RunSummary]) -> dict[AccuracyKey, str]:
    """Return the titles of the accuracies; where data sets of one name differ, all but the first have their hashes too."""
    keys = dict.fromkeys(key for summary in summaries for row in summary.rows for key in row.accuracies)
    sets = {key[:2] for key in keys}
    ambiguous = {data for data, hashes in sets if (data, hashes) != min(pair for pair in sets if pair[0] == data)}
    return {
        key: f"{key.data}{f' ({key.hashes})' if key.data in ambiguous else ''} {key.column}"
        for key in sorted(keys, key=lambda key: key[:2])
    }


def build_table(summaries: Sequence[RunSummary], keys: Sequence[str], columns: Mapping[AccuracyKey, str]) -> Table:
    """Return the table with all keys, last those that change no result; metrics that no run has are in the CSV file only."""
    rows = [(summary, row) for summary in summaries for row in summary.rows]
    neutral = [key for key in keys if key.startswith(RESULT_NEUTRAL_KEYS)]
    first = [key for key in keys if key not in neutral]
    metrics = [title for title, _ in METRICS.values()]
    header = ["run", "level", *first, "state", "step", *metrics, *columns.values(), *neutral]
    cells = [
        [
            Cell(run.name, {"run": run.name}),
            Cell(row.level or EMPTY, {**({"level": row.level} if row.level else {}), "folder": str(run.folder)}),
            *(config_cell(run, key) for key in first),
            Cell(run.state, {"state": run.state}),
            Cell(f"{run.step}/{run.total_steps or EMPTY}", {"step": run.step, "total_steps": run.total_steps}),
            *(metric_cell(row, key) for key in METRICS),
            *(accuracy_cell(title, row.accuracies.get(key), run.step) for key, title in columns.items()),
            *(config_cell(run, key) for key in neutral),
        ]
        for run, row in rows
    ]
    absent = [title for key, (title, _) in METRICS.items() if not any(key in row.metrics for _, row in rows)]
    return Table(header, cells, frozenset(absent if any(row.level for _, row in rows) else [*absent, "level"]))


def hide(table: Table, keys: Sequence[str], shown: Sequence[str]) -> Table:
    """Return the table with the configuration keys that are not shown in the CSV file only."""
    return table._replace(csv_only=table.csv_only | ({*keys} - {*shown}))


def metric_cell(row: SummaryRow, key: str) -> Cell:
    title, decimals = METRICS[key]
    value = row.metrics.get(key)
    return Cell(record={title: ""}) if value is None else Cell(f"{value:.{decimals}f}", {title: value})


def accuracy_cell(title: str, result: ProbeResult | None, step: int) -> Cell:
    """Return an accuracy in percent, with the step of the encoder if that is not the run's; in the CSV file it is a share."""
    if result is None:
        return Cell(record={title: "", f"{title} step": ""})
    top1 = result.row.top1
    text = f"{100 * top1:.2f}" + ("" if result.step == step else f" at {result.step}")
    return Cell(text, {title: top1, f"{title} step": result.step}, top1)


def run_details(run: RunSummary, keys: Sequence[str]) -> dict[str, Any]:
    """Return a run for the JSON file."""
    first, *above = run.rows
    probes = [
        {"data": key.data, "data_hash": key.hashes, "step": result.step, **result.row.model_dump(mode="json")}
        for row in run.rows
        for key, result in row.accuracies.items()
    ]
    return {
        "run": run.name,
        "folder": str(run.folder),
        "state": run.state,
        "config_hash": run.config and run.config.hash(),
        "commit": commit_of(run.folder),
        "differing": {key: run.values[key] for key in keys if key in run.values},
        "step": run.step,
        "total_steps": run.total_steps,
        **json_metrics(first),
        **({"levels": {row.level: json_metrics(row) for row in above}} if above else {}),
        "probes": probes,
    }


def json_metrics(row: SummaryRow) -> dict[str, float | str]:
    """Return the metrics by title; JSON has no nan, so they become text."""
    values = {title: row.metrics[key] for key, (title, _) in METRICS.items() if key in row.metrics}
    return {title: value if isfinite(value) else str(value) for title, value in values.items()}
