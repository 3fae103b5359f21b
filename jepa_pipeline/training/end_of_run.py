"""The summary that is printed at the end of a run."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from jepa_pipeline.console import print_plain
from jepa_pipeline.files import read_json_lines

SUMMARY = {
    "step": "optimizer steps",
    "samples": "samples",
    "seconds": "seconds",
    "samples_per_s": "samples/s",
    "skipped_samples": "skipped samples",
    "data_wait_share": "share of time waiting for data",
    "loss": "loss",
    "health/predictor_r2": "1 - prediction error / error of the best constant",
    "health/target_rankme": "effective rank of the targets",
    "health/feature_rankme": "effective rank of the features",
}
"""The metrics that are printed at the end, with their labels."""


def print_summary(run: Path, has_predictor: bool, console: Console) -> None:
    """Print the last metrics of a run, where its encoder is, and the next command."""
    last: dict[str, float | int] = {}
    for row in read_json_lines(run / "metrics.jsonl"):
        last |= row
    if not has_predictor:  # views of one image are compared with each other, not predicted
        last.pop("health/predictor_r2", None)
    table = Table(title=f"run {run.name}", show_header=False)
    for key, label in SUMMARY.items():
        if key in last:
            table.add_row(label, f"{last[key]:,.4g}" if isinstance(last[key], float) else f"{last[key]:,}")
    console.print(table)
    print_plain(console, f"encoder: {run / 'encoder'}\nnext:    jepa probe {run} --data SHARDS")
