"""Print the report of a probe."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from jepa_pipeline.console import print_plain
from jepa_pipeline.results.confidence_interval import difference_interval
from jepa_pipeline.results.levels import is_baseline
from jepa_pipeline.results.probe_report import EncoderName, ProbeReport, ProbeRow
from jepa_pipeline.results.tables import new_table


def print_report(report: ProbeReport, media: str, path: Path) -> None:
    """Print the rows of each encoder, best first, the ranks, the share of accuracy due to time, and the path of the report.

    Args:
        report: of a probe.
        media: "images" or "videos".
        path: where the report was written.
    """
    names = report.encoders
    ranks = "RankMe of the last features: " + ", ".join(f"{name} {rank:.1f}" for name, rank in report.rankme.items())
    table = new_table(f"{report.rows[0].n_test} test {media}", ranks if report.rankme else None)
    for column in ("encoder", "protocol", "settings", "top-1 %", "95 %", "seconds"):
        table.add_column(column, no_wrap=column != "settings", justify="right" if column == "seconds" else "left")
    for row in sorted(best_knn_rows(report.rows), key=lambda row: (names.index(row.encoder), -row.top1)):
        interval = f"{100 * row.ci95[0]:.1f} - {100 * row.ci95[1]:.1f}"
        table.add_row(row.encoder, row.protocol, format_settings(row), f"{100 * row.top1:.2f}", interval, f"{row.seconds:.1f}")
    console = Console()
    console.print(table)
    limits = report.labels.sentences() if report.labels else ()
    for sentence in [*attribute_to_time(report.rows), *limits, f"written to {path}"]:
        print_plain(console, sentence)


def best_knn_rows(rows: Sequence[ProbeRow]) -> list[ProbeRow]:
    """Return the rows without those of k-NN that have not the best k of their encoder and features; the first of equals."""
    best: dict[tuple[str, float | int | str], ProbeRow] = {}
    for row in rows:
        if row.protocol == "knn":
            key = row.encoder, row.settings["features"]
            best[key] = max(best.get(key, row), row, key=lambda row: row.top1)
    return [row for row in rows if row.protocol != "knn" or row is best[row.encoder, row.settings["features"]]]


def format_settings(row: ProbeRow) -> str:
    """Return the settings of a row in a few words."""
    settings = row.settings
    if row.protocol == "attentive":
        return f"{settings['form']}, lr {settings['lr']:g}, decay {settings['weight_decay']:g}"
    strength = f"best k {settings['k']}" if row.protocol == "knn" else f"decay {settings['weight_decay']:g}"
    frames = f"{settings['frames']}x" if "frames" in settings else ""
    features = f"{frames}{settings['side']}x{settings['side']}" if "side" in settings else settings["features"]
    return f"{features}, {strength}"


def attribute_to_time(rows: Sequence[ProbeRow]) -> list[str]:
    """Return a sentence per trained protocol and frames baseline: the accuracy lost without the order of frames.

    For a stack it compares the last level that was probed, which is all levels or that of --level.
    """
    sentences = []
    for protocol in ("linear", "attentive"):
        by_name: dict[EncoderName, ProbeRow] = {row.encoder: row for row in rows if row.protocol == protocol}
        ordered = next((row for name, row in reversed(by_name.items()) if not is_baseline(name)), None)
        for baseline, cause in (("frames_shuffled", "the order of frames"), ("frames_apart", "more than single frames")):
            if ordered and baseline in by_name:
                sentences.append(compare_accuracies(ordered, by_name[baseline], cause))
    return sentences


def compare_accuracies(ordered: ProbeRow, baseline: ProbeRow, cause: str) -> str:
    """Return the difference of two accuracies in points as a sentence, with its 95 % interval."""
    counts = ((round(row.top1 * row.n_test), row.n_test) for row in (ordered, baseline))
    low, high = (100 * end for end in difference_interval(*counts))
    first, second = 100 * ordered.top1, 100 * baseline.top1
    owner = ordered.encoder + ("'" if ordered.encoder.endswith("s") else "'s")
    name, other = f"{owner} {ordered.protocol}", f"{second:.1f} with {baseline.encoder.replace('_', ' ')}"
    if low <= 0 <= high:
        return f"no difference beyond chance between {name} {first:.1f} and {other} (95 %: {low:.1f} to {high:.1f} points)"
    return f"of {name} {first:.1f}, {first - second:.1f} points (95 %: {low:.1f} to {high:.1f}) are due to {cause} ({other})"
