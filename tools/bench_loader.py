"""How fast the loader delivers the images or clips of a recipe, where the time goes, and how many workers feed a training rate.

python tools/bench_loader.py DATA --config configs/ijepa_vits16.yaml --workers 0,1,2
"""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any, NamedTuple

import torch
import typer
from loader_baselines import Rivals, Team, Unit, crop_all, read_media, timed, unit_of
from rich.console import Console
from rich.table import Table

from jepa_pipeline.batch import Batch
from jepa_pipeline.cli import leave
from jepa_pipeline.cli.arguments import Overrides
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.console import print_plain
from jepa_pipeline.data.dataset import TrainDataset, open_media, stack_labels
from jepa_pipeline.data.remote import redact_urls
from jepa_pipeline.data.sample import DecodeError
from jepa_pipeline.data.shards import SampleError
from jepa_pipeline.data.worker_pool import available_cores
from jepa_pipeline.masks.build import build_mask_samplers

BATCH = {"images": 64, "clips": 16}
"""Most of a batch while measuring; more would only make the rounds coarse."""
ROUNDS = 6
"""Fewest rounds, of which the first warms up."""
TURNS = 20
"""Rounds for which turns are made short enough."""
PARTS = {
    "images": ("order", "read", "decode", "crop", "views", "masks", "batch"),
    "videos": ("order", "read", "demux", "decode_and_crop", "views", "masks", "batch"),
}
"""Of the whole path, by what the data set holds. A video is decoded when it is known which frames its views show."""
WORDS = {
    "order": "finding the samples",
    "read": "reading",
    "decode": "decoding",
    "crop": "cropping",
    "demux": "demuxing",
    "decode_and_crop": "decoding and cropping",
    "views": "finishing views",
    "masks": "drawing masks",
    "batch": "filling batches",
}
ONE = {"images": "an image", "clips": "a clip"}


class Speeds(NamedTuple):
    """Images/s or clips/s in one setting and the ratios of whole to the others in the same round, as medians over rounds.

    workers: processes; 0: in the process itself. per_worker: of the whole path, for each worker that has a core.
    """

    workers: int
    whole: float
    bare_loop: float
    webdataset: float
    per_worker: float
    whole_to_bare_loop: float
    whole_to_webdataset: float


class Report(NamedTuple):
    """What was measured on so many cores.

    unit: what is counted; per_step: how many one device takes in a step; parts: seconds one takes in each part of the whole
    path in one process; workers_needed: for step_rate optimizer steps/s, with a core for each; uncut: views were left for the
    device to cut.
    """

    data: str
    unit: Unit
    cores: int
    per_step: int
    parts: dict[str, float]
    speeds: list[Speeds]
    step_rate: float | None
    workers_needed: int | None
    uncut: bool = False


def bench(
    config: RunConfig, workers: Sequence[int] = (), seconds: float = 20.0, step_rate: float | None = None, as_json: bool = False
) -> Report:
    """Measure how one device is fed, side by side with a bare loop and with a plain webdataset pipeline.

    The three take turns, in one process and then in so many workers each, so that whatever else the machine does slows all alike.

    Args:
        config: names one data set; of a mixture the first is measured.
        workers: numbers of worker processes to measure; that of the configuration if empty.
        seconds: how long each of these settings is measured, and the single process.
        step_rate: optimizer steps per second that are to be fed.
        as_json: print the report as JSON and no table.

    Raises:
        UserError: the data is no whole data set, cannot be fetched, or holds videos for an encoder of images.
    """
    progress, per_step = Console(stderr=True), config.optim.batch_size_global // config.trainer.processes
    batch = min(BATCH[unit_of(config)], per_step // config.optim.accumulate_steps)
    endless = {"batch_size_global": batch, "accumulate_steps": 1, "total_samples": batch << 32}
    config = config.model_copy(update={"optim": config.optim.model_copy(update=endless)})
    on_gpu = torch.cuda.is_available() and config.trainer.accelerator != "cpu"
    with progress.status("opening the first shards"):
        rivals = Rivals(config, build_mask_samplers(config.method), on_trainer=config.views.on_trainer("cuda" if on_gpu else "cpu"))
    parts, alone = measure_process(rivals, seconds, progress)
    numbers = sorted({*(workers or [config.data.workers])} - {0})
    speeds = [alone, *(measure_workers(rivals, number, seconds, progress) for number in numbers)]
    needed = math.ceil(step_rate * per_step / speeds[-1].per_worker) if step_rate else None
    source = redact_urls(config.data.train[0].path)
    report = Report(source, rivals.unit, available_cores(), per_step, parts, speeds, step_rate, needed, rivals.uncut)
    if as_json:
        print(json.dumps({**report._asdict(), "speeds": [speed._asdict() for speed in speeds]}))
    else:
        show(report, Console())
    return report


def measure_process(rivals: Rivals, seconds: float, progress: Console) -> tuple[dict[str, float], Speeds]:
    """Seconds an image or clip takes in each part of the whole path, and the three rivals, all with a batch a round."""
    stream = rivals.loader(workers=0).dataset
    assert isinstance(stream, TrainDataset)
    plain, size, speeds, parts = rivals.webdataset(0), rivals.batch, [], []
    for turn in turns(seconds, in_words(0), progress):
        first, second = (list(range(start, start + size)) for start in (2 * turn * size, (2 * turn + 1) * size))
        parts.append(time_parts(stream, first))
        whole = timed(partial(whole_batch, stream, second))
        found = stream.mixture.locate(second[0], second[-1] + 1)
        media = read_media(stream.sources[0], found.shard.tolist(), found.member.tolist())
        bare = timed(partial(next, crop_all(rivals.crop, media, size)))
        speeds.append((whole, bare, timed(partial(next, plain))))
    each = {part: median(times[part] for times in parts[1:]) / size for part in parts[0]}
    return each, summarize(0, rivals.unit, speeds, progress)


def turns(seconds: float, title: str, progress: Console) -> Iterator[int]:
    """Numbers of rounds, until the time is up."""
    end = perf_counter() + seconds
    with progress.status(title) as status:
        for number in count():
            if number >= ROUNDS and perf_counter() > end:
                return
            status.update(f"{title}: round {number + 1}, {max(0, end - perf_counter()):.0f} s left")
            yield number


def whole_batch(stream: TrainDataset, numbers: list[int]) -> int:
    return len(stream.__getitems__(numbers).keys)


class Stopwatch:
    """Seconds by part: a mark gives a part the time since the last mark."""

    def __init__(self, parts: Sequence[str]) -> None:
        self.seconds = dict.fromkeys(parts, 0.0)
        self.last = perf_counter()

    def mark(self, part: str) -> None:
        now = perf_counter()
        self.seconds[part] += now - self.last
        self.last = now


def time_parts(stream: TrainDataset, numbers: list[int]) -> dict[str, float]:
    """Seconds of each part of what TrainDataset does for a batch. Damaged samples are not replaced here."""
    parts = PARTS[stream.sources[0].manifest.kind]
    samples, watch, opening, cutting = [], Stopwatch(parts), parts[2], parts[3]
    found = stream.mixture.locate(numbers[0], numbers[-1] + 1)
    stream.fetch_ahead(found)
    whose = list(zip(found.epoch.tolist(), found.sample.tolist(), strict=True))
    places = zip(found.shard.tolist(), found.member.tolist(), strict=True)
    watch.mark("order")
    views = stream.create_views(len(numbers))
    for (epoch, number), (shard, member) in zip(whose, places, strict=True):
        with suppress(SampleError, DecodeError):
            watch.mark("batch")
            sample = stream.sources[0].read(shard, member)
            watch.mark("read")
            shown: Any = open_media(stream.sources[0], sample)
            watch.mark(opening)
            views.add(shown, stream.view_generators(0, epoch, number))
            watch.mark(cutting)
            samples.append(sample)
    watch.mark("batch")
    pixels, deferred = views.finish()
    watch.mark("views")
    masks = stream.sample_masks([(0, *who) for who in whose], 0)
    watch.mark("masks")
    Batch(pixels, masks, stack_labels(samples), [sample.key for sample in samples], [], deferred)
    watch.mark("batch")
    return watch.seconds


def measure_workers(rivals: Rivals, workers: int, seconds: float, progress: Console) -> Speeds:
    """The three rivals, each with so many workers and with as many turns."""
    with ExitStack() as teams:
        running = []
        for start in (rivals.whole, rivals.bare_loop, rivals.webdataset):
            running.append(Team(start, workers, turn_s=seconds / (3 * TURNS)))
            teams.callback(running[-1].leave)
        speeds = [tuple(team.speed() for team in running) for _ in turns(seconds, in_words(workers), progress)]
    return summarize(workers, rivals.unit, speeds, progress)


def summarize(workers: int, unit: str, rounds: list[tuple[float, ...]], progress: Console) -> Speeds:
    """Medians over all rounds but the first."""
    whole, bare_loop, webdataset = (median(speeds) for speeds in zip(*rounds[1:], strict=True))
    ratios = [median(speeds[0] / speeds[rival] for speeds in rounds[1:]) for rival in (1, 2)]
    print_plain(progress, f"{in_words(workers)}: {whole:,.0f} {unit}/s in {len(rounds)} rounds")
    return Speeds(workers, whole, bare_loop, webdataset, whole / min(max(workers, 1), available_cores()), *ratios)


def in_words(workers: int) -> str:
    return {0: "one process", 1: "1 worker"}.get(workers, f"{workers} workers")


def show(report: Report, console: Console) -> None:
    """Print the report as two tables and in words."""
    total = sum(report.parts.values())
    table = Table(title=f"{report.data}: the whole path by parts")
    table.add_column("one process", no_wrap=True)
    for column in (f"{report.unit}/s", f"µs {ONE[report.unit]}", "share"):
        table.add_column(column, justify="right")
    for part, seconds in report.parts.items():
        table.add_row(WORDS[part], f"{1 / seconds:,.0f}", f"{1e6 * seconds:,.1f}", f"{seconds / total:.1%}")
    console.print(table)
    table = Table(title=f"{report.unit}/s side by side, cores: {report.cores}")
    table.add_column("", no_wrap=True)
    for column in ("whole", "a worker", "bare loop", "webdataset", "/ bare", "/ webds"):
        table.add_column(column, justify="right", no_wrap=True)
    for speeds in report.speeds:
        numbers = (speeds.whole, speeds.per_worker, speeds.bare_loop, speeds.webdataset)
        ratios = (f"{speeds.whole_to_bare_loop:.0%}", f"{speeds.whole_to_webdataset:.0%}")
        table.add_row(in_words(speeds.workers), *(f"{number:,.0f}" for number in numbers), *ratios)
    console.print(table)
    for sentence in sentences(report):
        print_plain(console, sentence)


def sentences(report: Report) -> Iterator[str]:
    """What the numbers mean."""
    total, unit, batch, best = sum(report.parts.values()), report.unit, report.per_step, report.speeds[-1]
    if report.uncut:
        yield "all three only decode: the device that trains cuts the views"
    longest = sorted(report.parts, key=report.parts.__getitem__, reverse=True)
    shares = [f"{WORDS[part]} {report.parts[part] / total:.0%}" for part in longest]
    yield f"where the time goes: {', '.join(shares)}"
    yield (
        f"{best.whole:,.0f} {unit}/s by {in_words(best.workers)} feed {best.whole / batch:,.2f} steps/s of {batch} {unit}; "
        f"1,000 {unit}/s need data.workers={math.ceil(1000 / best.per_worker)} with a core each"
    )
    if report.step_rate and report.workers_needed:
        yield (
            f"{report.step_rate:g} steps/s are {report.step_rate * batch:,.0f} {unit}/s: "
            f"they need data.workers={report.workers_needed} with a core each"
        )


def read_numbers(text: str) -> list[int]:
    """Read whole numbers with commas between them; an empty text gives none."""
    parts = text.split(",") if text else []
    if not all(part.strip().isdecimal() for part in parts):
        raise UserError(f"--workers is {text}: it is one or more whole numbers with commas between, such as 1,2,4")
    return [int(part) for part in parts]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def bench_loader(
    data: Annotated[str, typer.Argument(help="A folder or URL of shards, read in place of the recipe's data.train.")],
    recipe: Annotated[Path, typer.Option("--config", help="A YAML recipe, such as those in configs/.")],
    overrides: Overrides = None,
    seconds: Annotated[float, typer.Option(min=0, help="Seconds to measure each number of workers, and a single process.")] = 20.0,
    workers: Annotated[str, typer.Option(help="Numbers of workers to measure, such as 1,2,4; default: the recipe's.")] = "",
    step_rate: Annotated[float | None, typer.Option(min=1e-9, help="Optimizer steps/s that one device must be fed with.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Measure how fast the images or clips of a recipe load, beside a bare loop and webdataset, and how many workers that takes."""
    run = load_config(recipe, [*(overrides or []), f"data.train={json.dumps(data)}"])
    bench(run, read_numbers(workers), seconds=seconds, step_rate=step_rate, as_json=as_json)


def main() -> None:
    try:
        app(standalone_mode=False)
    except UserError as error:
        print(error, file=sys.stderr)
        leave(2)
    leave(0)


if __name__ == "__main__":
    main()
