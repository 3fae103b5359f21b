"""A probe's report as it is printed."""

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from jepa_pipeline.probes.confidence_interval import difference_interval
from jepa_pipeline.probes.levels import is_trained_whole
from jepa_pipeline.probes.report import EncoderName, ProbeReport, Protocol, Row, Settings

NEIGHBOURS = 20
PROTOCOLS: tuple[Protocol, ...] = ("linear", "knn", "attentive")


def show(report: ProbeReport, media: str, path: Path) -> None:
    """Print each encoder's rows, best first, the ranks, what is due to time, and where all was written. media: what samples are."""
    names, title = list(dict.fromkeys(row.encoder for row in report.rows)), f"{report.rows[0].n_test} test {media}"
    ranks = "RankMe of the last features: " + ", ".join(f"{name} {rank:.1f}" for name, rank in report.rankme.items())
    # without edges and with single gaps all columns are within 80 characters
    table = Table(title=title, caption=ranks if report.rankme else None, box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.padding = (0, 0, 0, 1)
    for column in ("encoder", "protocol", "settings", "top-1 %", "95 %", "seconds"):
        table.add_column(column, no_wrap=column != "settings", justify="right" if column == "seconds" else "left")
    for row in sorted(best_neighbors(report.rows), key=lambda row: (names.index(row.encoder), -row.top1)):
        interval = f"{100 * row.ci95[0]:.1f} - {100 * row.ci95[1]:.1f}"
        settings = describe(row.protocol, row.settings)
        table.add_row(row.encoder, row.protocol, settings, f"{100 * row.top1:.2f}", interval, f"{row.seconds:.1f}")
    console = Console()
    console.print(table)
    for sentence in due_to_time(report.rows):
        console.print(sentence, soft_wrap=True, markup=False, highlight=False)
    console.print(f"written to {path}", soft_wrap=True, markup=False, highlight=False)


def best_neighbors(rows: Sequence[Row]) -> list[Row]:
    """The rows, but of k-NN the best k of each encoder's kind of features alone, the first of equals."""
    best: dict[tuple[str, float | int | str], Row] = {}
    for row in rows:
        if row.protocol == "knn":
            kind = row.encoder, row.settings["features"]
            best[kind] = max(best.get(kind, row), row, key=lambda row: row.top1)
    return [row for row in rows if row.protocol != "knn" or row is best[row.encoder, row.settings["features"]]]


def headline(rows: Sequence[Row], encoder: EncoderName, protocol: Protocol) -> Row | None:
    """An encoder's one row of a protocol for a table of many runs, which no look at test samples chose; None if there is none.

    Of k-NN that in the pooled features if there is one, with 20 neighbors or the next smaller number of them.
    """
    found = [row for row in rows if (row.encoder, row.protocol) == (encoder, protocol)]
    if protocol != "knn":
        return found[0] if found else None
    pooled = [row for row in found if row.settings["features"] != "last4"] or found
    return max(pooled, key=lambda row: closeness(int(row.settings["k"])), default=None)


def closeness(k: int) -> tuple[bool, int]:
    return (True, k) if k <= NEIGHBOURS else (False, -k)


def column(row: Row) -> str:
    """What a row's protocol is called above a column of top-1 accuracies."""
    return f"k-NN {row.settings['k']}" if row.protocol == "knn" else row.protocol


def describe(protocol: Protocol, settings: Settings) -> str:
    """The settings of a row in a few words."""
    if protocol == "attentive":
        return f"{settings['form']}, lr {settings['lr']:g}, decay {settings['weight_decay']:g}"
    strength = f"best k {settings['k']}" if protocol == "knn" else f"decay {settings['weight_decay']:g}"
    frames = f"{settings['frames']}x" if "frames" in settings else ""
    features = f"{frames}{settings['side']}x{settings['side']}" if "side" in settings else settings["features"]
    return f"{features}, {strength}"


def due_to_time(rows: Sequence[Row]) -> list[str]:
    """Of each trained protocol, how much accuracy is gone with frames shuffled or apart, if that is more than chance may do.

    Of a stack's levels it is the last that was shown so: all of them together, or the one that was asked.
    """
    sentences = []
    for protocol in ("linear", "attentive"):
        found: dict[EncoderName, Row] = {row.encoder: row for row in rows if row.protocol == protocol}
        whole = next((row for name, row in reversed(found.items()) if is_trained_whole(name)), None)
        for blinded, cause in (("frames_shuffled", "the order of frames"), ("frames_apart", "more than single frames")):
            if whole and blinded in found:
                sentences.append(loss(whole, found[blinded], cause))
    return sentences


def loss(whole: Row, blinded: Row, cause: str) -> str:
    """The points between two accuracies in a sentence."""
    low, high = (100 * end for end in difference_interval(count(whole), count(blinded)))
    ours, theirs = 100 * whole.top1, 100 * blinded.top1
    owner = whole.encoder + ("'" if whole.encoder.endswith("s") else "'s")
    name, shown = f"{owner} {whole.protocol}", f"{theirs:.1f} with {blinded.encoder.replace('_', ' ')}"
    if low <= 0 <= high:
        return f"no difference beyond chance between {name} {ours:.1f} and {shown} (95 %: {low:.1f} to {high:.1f} points)"
    return f"of {name} {ours:.1f}, {ours - theirs:.1f} points (95 %: {low:.1f} to {high:.1f}) are due to {cause} ({shown})"


def count(row: Row) -> tuple[int, int]:
    """Right answers, and all."""
    return round(row.top1 * row.n_test), row.n_test
