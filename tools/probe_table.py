"""Print one Markdown table of the probes of several runs: python tools/probe_table.py RUN...

Runs of one recipe that differ only in their seed are one row: mean ± sample deviation (number of runs). The baselines, untrained
encoders and pixels, follow once each. Only probes of a run's current weights count. Attentive accuracies, and linear ones with
shuffled or separate frames, have columns if there are any. Each level of a stack is a row, and so are all levels together.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.models.weights import hash_weights, load_encoder, read_card
from jepa_pipeline.results.levels import is_baseline, is_untrained, level_of
from jepa_pipeline.results.probe_report import NEIGHBORS, EncoderName, ProbeReport, headline, load_reports
from jepa_pipeline.results.tables import markdown

LABELS = ("data", "method", "encoder", "runs")
NUMBERS = {
    "linear %": 2,
    f"k-NN %, k {NEIGHBORS}": 2,
    "attentive %": 2,
    "frames shuffled %": 2,
    "frames apart %": 2,
    "RankMe": 1,
    "training s": 0,
}
"""Columns of numbers with their decimals."""
OPTIONAL = ("attentive %", "frames shuffled %", "frames apart %")
"""Columns that are omitted if empty."""
WITHOUT_ORDER: tuple[EncoderName, ...] = ("frames_shuffled", "frames_apart")
"""Rows of a report about the trained encoder without the order of frames; here they are columns of its row."""
Key = tuple[str, ...]


class Result(NamedTuple):
    """The numbers of one encoder in one probe of a run, in the order of NUMBERS; None: not measured."""

    labels: tuple[str, str, str]
    run: str
    numbers: list[float | None]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    try:
        print(probe_table(parser.parse_args().runs))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def probe_table(runs: list[Path]) -> str:
    """Return the table.

    Raises:
        UserError: a run has no encoder, no recipe or no probe of its current weights.
    """
    trained: dict[Key, list[Result]] = {}
    untrained: dict[Key, list[Result]] = {}
    for run in runs:
        for name, key, result in load_results(run):
            if is_untrained(name):
                untrained.setdefault((name, *key), [result])
            else:
                trained.setdefault(key, []).append(result)
    cells = [table_row(results) for results in [*trained.values(), *untrained.values()]]
    header = (*LABELS, *NUMBERS)
    columns = [column for column in zip(header, *cells, strict=True) if column[0] not in OPTIONAL or any(column[1:])]
    first, *rest = zip(*columns, strict=True)
    return markdown(first, rest)


def load_results(run: Path) -> Iterator[tuple[EncoderName, Key, Result]]:
    """Yield for each probe and encoder its name, the key that it shares with other runs of its row, and its result."""
    card, recipe, weights = read_card(run), load_config(run).results(), hash_weights(load_encoder(run))
    reports = [report for report in load_reports(run / "probes") if report.weights_hash == weights]
    if not reports:
        raise UserError(f"{run} has no probe of its current weights: run `jepa probe {run} --data DATA` first")
    del recipe["seed"]
    side = card.encoder.input_shape
    for report in reports:
        task = (report.data, json.dumps(report.data_hash), report.probe.model_dump_json())
        for name in filter(lambda name: name not in WITHOUT_ORDER, report.encoders):
            measured, level = read_numbers(report, name), level_of(name)
            shape = card.encoder.up_to_level(level)
            encoder = shape.describe() + (", all levels" if level == "all" else f", level {level}" if level else "")
            if name == "pixels":
                key, result = side, Result((report.data, "pixels", side), "", [*measured, None])
            elif is_untrained(name):
                key, result = shape.model_dump_json(), Result((report.data, "untrained", encoder), "", [*measured, None])
            else:
                key = json.dumps(recipe, sort_keys=True) + (name if level else "")
                result = Result((report.data, card.method, encoder), run.resolve().name, [*measured, training_seconds(run)])
            yield name, (*task, key), result


def read_numbers(report: ProbeReport, name: EncoderName) -> list[float | None]:
    """Return all numbers but the training time."""
    neighbors = headline(report.rows, name, "knn")
    # the last one, because in reports of stacks the row of all levels follows those of each level
    trained = next((encoder for encoder in reversed(report.encoders) if not is_baseline(encoder)), None)
    rows = [
        headline(report.rows, name, "linear"),
        neighbors if neighbors and neighbors.settings["k"] == NEIGHBORS else None,
        headline(report.rows, name, "attentive"),
        *(headline(report.rows, other, "linear") if name == trained else None for other in WITHOUT_ORDER),
    ]
    return [*(row and 100 * row.top1 for row in rows), report.rankme.get(name)]


def training_seconds(run: Path) -> float | None:
    """Return the training time in the last line of the log that has one."""
    log = run / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    return next((line["seconds"] for line in reversed(lines) if "seconds" in line), None)


def table_row(results: list[Result]) -> tuple[str, ...]:
    columns = zip(*(result.numbers for result in results), strict=True)
    numbers = [
        mean_and_deviation([n for n in column if n is not None], decimals)
        for column, decimals in zip(columns, NUMBERS.values(), strict=True)
    ]
    return (*results[0].labels, ", ".join(result.run for result in results), *numbers)


def mean_and_deviation(numbers: list[float], decimals: int) -> str:
    if len(numbers) < 2:
        return "".join(f"{number:.{decimals}f}" for number in numbers)
    return f"{mean(numbers):.{decimals}f} ± {stdev(numbers):.{decimals}f} ({len(numbers)})"


if __name__ == "__main__":
    sys.exit(main())
