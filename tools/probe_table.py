"""One Markdown table of the probes of several runs: python tools/probe_table.py RUN...

Runs of one recipe that differ in their seed alone are one row, mean ± sample deviation (number of runs). Each encoder's untrained
twin and the pixels follow once. Only probes of a run's present weights count. Linear accuracies with the frames of clips shuffled
or apart, and attentive ones, have columns where there are any. Of a stack every level is a row, and all of them together.
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
"""Columns, and the decimals in each."""
IF_ANY = ("attentive %", "frames shuffled %", "frames apart %")
"""Columns that are left out where they would be empty."""
BLINDED: tuple[EncoderName, ...] = ("frames_shuffled", "frames_apart")
"""The trained encoder again, without knowledge of the order of frames: columns of its row."""
Key = tuple[str, ...]


class Result(NamedTuple):
    """What one run's probe says of one encoder, in order of NUMBERS; a number is missing where nobody measured it."""

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
    """The table.

    Raises:
        UserError: a run holds no encoder, no recipe or no probe of its present weights.
    """
    trained: dict[Key, list[Result]] = {}
    untrained: dict[Key, list[Result]] = {}
    for run in runs:
        for name, key, result in results(run):
            if is_untrained(name):
                untrained.setdefault((name, *key), [result])
            else:
                trained.setdefault(key, []).append(result)
    cells = [row(same) for same in [*trained.values(), *untrained.values()]]
    header = (*LABELS, *NUMBERS)
    columns = [column for column in zip(header, *cells, strict=True) if column[0] not in IF_ANY or any(column[1:])]
    first, *rest = zip(*columns, strict=True)
    return markdown(first, rest)


def results(run: Path) -> Iterator[tuple[EncoderName, Key, Result]]:
    """Of each probe each encoder's, with what it has in common with those that belong into the same row."""
    card, recipe, weights = read_card(run), load_config(run).results(), hash_weights(load_encoder(run))
    reports = [report for report in load_reports(run / "probes") if report.weights_hash == weights]
    if not reports:
        raise UserError(f"{run} has no probe of its present weights: `jepa probe {run} --data DATA` first")
    del recipe["seed"]
    side = card.encoder.input_shape
    for report in reports:
        task = (report.data, json.dumps(report.data_hash), report.probe.model_dump_json())
        for name in filter(lambda name: name not in BLINDED, report.encoders):
            measured, level = probed(report, name), level_of(name)
            shape = card.encoder.up_to_level(level)
            encoder = shape.describe() + (", all levels" if level == "all" else f", level {level}" if level else "")
            if name == "pixels":
                key, result = side, Result((report.data, "pixels", side), "", [*measured, None])
            elif is_untrained(name):
                key, result = shape.model_dump_json(), Result((report.data, "untrained", encoder), "", [*measured, None])
            else:
                key = json.dumps(recipe, sort_keys=True) + (name if level else "")
                result = Result((report.data, card.method, encoder), run.resolve().name, [*measured, seconds(run)])
            yield name, (*task, key), result


def probed(report: ProbeReport, name: EncoderName) -> list[float | None]:
    """All numbers but the training time. Neighbors are looked for in the pooled features."""
    neighbors = headline(report.rows, name, "knn")
    whole = next((one for one in reversed(report.encoders) if not is_baseline(one)), None)  # of a stack its levels together
    found = [
        headline(report.rows, name, "linear"),
        neighbors if neighbors and neighbors.settings["k"] == NEIGHBORS else None,
        headline(report.rows, name, "attentive"),
        *(headline(report.rows, other, "linear") if name == whole else None for other in BLINDED),
    ]
    return [*(row and 100 * row.top1 for row in found), report.rankme.get(name)]


def seconds(run: Path) -> float | None:
    """The training time in the last line of the log that says one."""
    log = run / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    return next((line["seconds"] for line in reversed(lines) if "seconds" in line), None)


def row(same: list[Result]) -> tuple[str, ...]:
    columns = zip(*(result.numbers for result in same), strict=True)
    numbers = [
        spread([n for n in column if n is not None], decimals) for column, decimals in zip(columns, NUMBERS.values(), strict=True)
    ]
    return (*same[0].labels, ", ".join(result.run for result in same), *numbers)


def spread(numbers: list[float], places: int) -> str:
    if len(numbers) < 2:
        return "".join(f"{number:.{places}f}" for number in numbers)
    return f"{mean(numbers):.{places}f} ± {stdev(numbers):.{places}f} ({len(numbers)})"


if __name__ == "__main__":
    sys.exit(main())
