"""A probe's report as it is printed."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from jepa_pipeline.probes.report import EncoderName, ProbeReport, Protocol, Row, Settings


def show(report: ProbeReport, media: str, path: Path) -> None:
    """Print each encoder's rows, best first, the ranks, what is due to time, and where all was written. media: what samples are."""
    names, title = list(report.rankme), f"{report.rows[0].n_test} test {media}"
    caption = "RankMe of the last features: " + ", ".join(f"{name} {rank:.1f}" for name, rank in report.rankme.items())
    table = Table("encoder", "protocol", "settings", "top-1 %", "95 % interval", "seconds", title=title, caption=caption)
    for row in sorted(report.rows, key=lambda row: (names.index(row.encoder), -row.top1)):
        interval = f"{100 * row.ci95[0]:.2f} - {100 * row.ci95[1]:.2f}"
        settings = describe(row.protocol, row.settings)
        table.add_row(row.encoder, row.protocol, settings, f"{100 * row.top1:.2f}", interval, f"{row.seconds:.1f}")
    console = Console()
    console.print(table)
    for sentence in due_to_time(report.rows):
        console.print(sentence, soft_wrap=True, markup=False, highlight=False)
    console.print(f"written to {path}", soft_wrap=True, markup=False, highlight=False)


def describe(protocol: Protocol, settings: Settings) -> str:
    """The settings of a row in a few words."""
    if protocol == "attentive":
        return f"{settings['form']}, lr {settings['lr']:g}, decay {settings['weight_decay']:g}"
    strength = f"k {settings['k']}" if protocol == "knn" else f"decay {settings['weight_decay']:g}"
    frames = f"{settings['frames']}x" if "frames" in settings else ""
    side = f" {frames}{settings['side']}x{settings['side']}" if "side" in settings else ""
    return f"{settings['features']}{side}, {strength}"


def due_to_time(rows: Sequence[Row]) -> list[str]:
    """Of each trained protocol a sentence that says how much of the accuracy is gone where the order of frames is not known."""
    sentences = []
    for protocol in ("linear", "attentive"):
        top1: dict[EncoderName, float] = {row.encoder: 100 * row.top1 for row in rows if row.protocol == protocol}
        if "frames_shuffled" in top1 and "frames_apart" in top1:
            shuffled, apart = top1["frames_shuffled"], top1["frames_apart"]
            name, whole = next((name, number) for name, number in top1.items() if name in ("target", "online"))
            sentences.append(
                f"of {name}'s {protocol} {whole:.1f}, {whole - shuffled:.1f} points are due to the order of frames "
                f"({shuffled:.1f} with frames shuffled) and {whole - apart:.1f} to more than single frames "
                f"({apart:.1f} with frames apart)"
            )
    return sentences
