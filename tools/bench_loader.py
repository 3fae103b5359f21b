"""Measure how fast a recipe's images or clips load, in which parts the time goes, and how many workers a training rate needs.

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
from loader_baselines import Loaders, PausedWorkers, crop_all, measure_rate, read_media
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
from jepa_pipeline.data.sample import DecodeError
from jepa_pipeline.data.shards import SampleError
from jepa_pipeline.data.worker_pool import available_cores
from jepa_pipeline.masks.build import build_mask_samplers
from jepa_pipeline.redaction import redact

BATCH = {"images": 64, "clips": 16}
"""Largest batch while measuring; larger ones only make rounds longer."""
ROUNDS = 6
"""Fewest rounds; the first is a warm-up."""
TURNS = 20
"""Rounds that should fit into the measuring time."""
PARTS = {
    "images": ("order", "read", "decode", "crop", "views", "masks", "batch"),
    "videos": ("order", "read", "demux", "decode_and_crop", "views", "masks", "batch"),
}
"""Parts of loading a batch, by data kind. Videos are decoded after the frames of their views are sampled."""
PART_LABELS = {
    "order": "finding the samples",
    "read": "reading",
    "decode": "decoding",
    "crop": "cropping",
    "demux": "demuxing",
    "decode_and_crop": "decoding and cropping",
    "views": "finishing views",
    "masks": "sampling masks",
    "batch": "filling batches",
}
SINGULAR = {"images": "image", "clips": "clip"}


class Speeds(NamedTuple):
    """Images/s or clips/s of the run's loader and its baselines, as medians over rounds.

    Attributes:
        workers: number of worker processes; 0: none.
        whole: of the run's loader.
        bare_loop: of the bare loop.
        webdataset: of the plain webdataset pipeline.
        per_worker: of the run's loader per worker that has a core.
        whole_to_bare_loop: ratio of the two in the same round.
        whole_to_webdataset: ratio of the two in the same round.
    """

    workers: int
    whole: float
    bare_loop: float
    webdataset: float
    per_worker: float
    whole_to_bare_loop: float
    whole_to_webdataset: float


class Report(NamedTuple):
    """The result of a benchmark.

    Attributes:
        data: folder or URL of the shards.
        unit: images or clips.
        cores: available CPU cores.
        per_step: images or clips that one device takes in a step.
        parts: seconds per image or clip in each part of the run's loader, in one process.
        speeds: of each number of workers.
        step_rate: optimizer steps/s to be supplied.
        workers_needed: workers for step_rate, with a core for each.
        crop_on_device: views were not cropped, because the training device crops them.
    """

    data: str
    unit: str
    cores: int
    per_step: int
    parts: dict[str, float]
    speeds: list[Speeds]
    step_rate: float | None
    workers_needed: int | None
    crop_on_device: bool = False


def bench(
    config: RunConfig, workers: Sequence[int] = (), seconds: float = 20.0, step_rate: float | None = None, as_json: bool = False
) -> Report:
    """Measure the loader of one device beside a bare loop and a plain webdataset pipeline.

    The three take turns, first in one process and then in worker processes, so that other load on the machine affects them
    equally.

    Args:
        config: a run; of a mixture of data sets the first is measured.
        workers: numbers of worker processes to measure; default: the configuration's.
        seconds: measuring time for each number of workers, and for the single process.
        step_rate: optimizer steps per second to be supplied.
        as_json: print the report as JSON instead of tables.

    Raises:
        UserError: the data set is incomplete, cannot be fetched, or holds videos for an image encoder.
    """
    progress, per_step = Console(stderr=True), config.optim.batch_size_global // config.trainer.processes
    batch = min(BATCH[config.method.encoder.modality.unit], per_step // config.optim.accumulate_steps)
    endless = {"batch_size_global": batch, "accumulate_steps": 1, "total_samples": batch << 32}
    config = config.model_copy(update={"optim": config.optim.model_copy(update=endless)})
    on_gpu = torch.cuda.is_available() and config.trainer.accelerator != "cpu"
    with progress.status("opening the first shards"):
        crop_on_device = config.views.on_trainer("cuda" if on_gpu else "cpu")
        loaders = Loaders(config, build_mask_samplers(config.method), crop_on_device)
    parts, single = measure_process(loaders, seconds, progress)
    numbers = sorted({*(workers or [config.data.workers])} - {0})
    speeds = [single, *(measure_workers(loaders, number, seconds, progress) for number in numbers)]
    needed = math.ceil(step_rate * per_step / speeds[-1].per_worker) if step_rate else None
    source = redact(config.data.train[0].path)
    report = Report(source, loaders.unit, available_cores(), per_step, parts, speeds, step_rate, needed, loaders.crop_on_device)
    if as_json:
        print(json.dumps({**report._asdict(), "speeds": [speed._asdict() for speed in speeds]}))
    else:
        print_report(report, Console())
    return report


def measure_process(loaders: Loaders, seconds: float, progress: Console) -> tuple[dict[str, float], Speeds]:
    """Return the seconds per image or clip in each part of the run's loader, and the speeds of all three, in one process."""
    stream = loaders.loader(workers=0).dataset
    assert isinstance(stream, TrainDataset)
    webdataset, size, speeds, parts = loaders.webdataset(0), loaders.batch, [], []
    for number in rounds(seconds, describe_workers(0), progress):
        first, second = (list(range(start, start + size)) for start in (2 * number * size, (2 * number + 1) * size))
        parts.append(time_parts(stream, first))
        whole = measure_rate(partial(load_batch, stream, second))
        found = stream.mixture.locate(second[0], second[-1] + 1)
        media = read_media(stream.sources[0], found.shard.tolist(), found.member.tolist())
        bare = measure_rate(partial(next, crop_all(loaders.crop, media, size)))
        speeds.append((whole, bare, measure_rate(partial(next, webdataset))))
    medians = {part: median(times[part] for times in parts[1:]) / size for part in parts[0]}
    return medians, summarize(0, loaders.unit, speeds, progress)


def rounds(seconds: float, title: str, progress: Console) -> Iterator[int]:
    """Yield the numbers of rounds until the time is up."""
    end = perf_counter() + seconds
    with progress.status(title) as status:
        for number in count():
            if number >= ROUNDS and perf_counter() > end:
                return
            status.update(f"{title}: round {number + 1}, {max(0, end - perf_counter()):.0f} s left")
            yield number


def load_batch(stream: TrainDataset, numbers: list[int]) -> int:
    return len(stream.__getitems__(numbers).keys)


class Stopwatch:
    """Seconds by part; a mark attributes the time since the last mark."""

    def __init__(self, parts: Sequence[str]) -> None:
        self.seconds = dict.fromkeys(parts, 0.0)
        self.last = perf_counter()

    def mark(self, part: str) -> None:
        now = perf_counter()
        self.seconds[part] += now - self.last
        self.last = now


def time_parts(stream: TrainDataset, numbers: list[int]) -> dict[str, float]:
    """Return the seconds of each part of what TrainDataset does for a batch, except that damaged samples are not replaced."""
    parts = PARTS[stream.sources[0].manifest.kind]
    samples, watch, opening, cropping = [], Stopwatch(parts), parts[2], parts[3]
    found = stream.mixture.locate(numbers[0], numbers[-1] + 1)
    stream.fetch_ahead(found)
    keys = list(zip(found.epoch.tolist(), found.sample.tolist(), strict=True))
    positions = zip(found.shard.tolist(), found.member.tolist(), strict=True)
    watch.mark("order")
    views = stream.create_views(len(numbers))
    for (epoch, number), (shard, member) in zip(keys, positions, strict=True):
        with suppress(SampleError, DecodeError):
            watch.mark("batch")
            sample = stream.sources[0].read(shard, member)
            watch.mark("read")
            media: Any = open_media(stream.sources[0], sample)
            watch.mark(opening)
            views.add(media, stream.view_generators(0, epoch, number))
            watch.mark(cropping)
            samples.append(sample)
    watch.mark("batch")
    pixels, deferred = views.finish()
    watch.mark("views")
    masks = stream.sample_masks([(0, *key) for key in keys], 0)
    watch.mark("masks")
    Batch(pixels, masks, stack_labels(samples), [sample.key for sample in samples], [], deferred)
    watch.mark("batch")
    return watch.seconds


def measure_workers(loaders: Loaders, workers: int, seconds: float, progress: Console) -> Speeds:
    """Return the speeds of all three loaders, each with its own worker processes, which take turns."""
    with ExitStack() as stack:
        pools = []
        for start in (loaders.whole, loaders.bare_loop, loaders.webdataset):
            pools.append(PausedWorkers(start, workers, turn_s=seconds / (3 * TURNS)))
            stack.callback(pools[-1].stop)
        speeds = [tuple(pool.measure_speed() for pool in pools) for _ in rounds(seconds, describe_workers(workers), progress)]
    return summarize(workers, loaders.unit, speeds, progress)


def summarize(workers: int, unit: str, speeds: list[tuple[float, ...]], progress: Console) -> Speeds:
    """Return the medians over all rounds but the first."""
    whole, bare_loop, webdataset = (median(column) for column in zip(*speeds[1:], strict=True))
    ratios = [median(row[0] / row[baseline] for row in speeds[1:]) for baseline in (1, 2)]
    print_plain(progress, f"{describe_workers(workers)}: {whole:,.0f} {unit}/s in {len(speeds)} rounds")
    return Speeds(workers, whole, bare_loop, webdataset, whole / min(max(workers, 1), available_cores()), *ratios)


def describe_workers(workers: int) -> str:
    return {0: "one process", 1: "1 worker"}.get(workers, f"{workers} workers")


def print_report(report: Report, console: Console) -> None:
    """Print the report as two tables and some sentences."""
    total = sum(report.parts.values())
    table = Table(title=f"{report.data}: the loader by parts")
    table.add_column("one process", no_wrap=True)
    for column in (f"{report.unit}/s", f"µs/{SINGULAR[report.unit]}", "share"):
        table.add_column(column, justify="right")
    for part, seconds in report.parts.items():
        table.add_row(PART_LABELS[part], f"{1 / seconds:,.0f}", f"{1e6 * seconds:,.1f}", f"{seconds / total:.1%}")
    console.print(table)
    table = Table(title=f"{report.unit}/s side by side, cores: {report.cores}")
    table.add_column("", no_wrap=True)
    for column in ("loader", "per worker", "bare loop", "webdataset", "/ bare", "/ webds"):
        table.add_column(column, justify="right", no_wrap=True)
    for speeds in report.speeds:
        numbers = (speeds.whole, speeds.per_worker, speeds.bare_loop, speeds.webdataset)
        ratios = (f"{speeds.whole_to_bare_loop:.0%}", f"{speeds.whole_to_webdataset:.0%}")
        table.add_row(describe_workers(speeds.workers), *(f"{number:,.0f}" for number in numbers), *ratios)
    console.print(table)
    for sentence in summary_sentences(report):
        print_plain(console, sentence)


def summary_sentences(report: Report) -> Iterator[str]:
    """Yield the conclusions from a report."""
    total, unit, batch, best = sum(report.parts.values()), report.unit, report.per_step, report.speeds[-1]
    if report.crop_on_device:
        yield "all three only decode, because the training device crops the views"
    longest = sorted(report.parts, key=report.parts.__getitem__, reverse=True)
    shares = [f"{PART_LABELS[part]} {report.parts[part] / total:.0%}" for part in longest]
    yield f"time by part: {', '.join(shares)}"
    workers = describe_workers(best.workers)
    yield (
        f"{best.whole:,.0f} {unit}/s by {workers} supply {best.whole / batch:,.2f} steps/s of {batch} {unit}; "
        f"1,000 {unit}/s need data.workers={math.ceil(1000 / best.per_worker)}, with a core each"
    )
    if report.step_rate and report.workers_needed:
        yield (
            f"{report.step_rate:g} steps/s are {report.step_rate * batch:,.0f} {unit}/s: "
            f"they need data.workers={report.workers_needed}, with a core each"
        )


def parse_workers(text: str) -> list[int]:
    """Return the numbers in a comma-separated list.

    Raises:
        UserError: there is something else in it.
    """
    parts = text.split(",") if text else []
    if not all(part.strip().isdecimal() for part in parts):
        raise UserError(f"--workers is {text}: give whole numbers separated by commas, such as 1,2,4")
    return [int(part) for part in parts]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def bench_loader(
    data: Annotated[str, typer.Argument(help="A folder or URL of shards, which replaces the recipe's data.train.")],
    recipe: Annotated[Path, typer.Option("--config", help="A YAML recipe, such as those in configs/.")],
    overrides: Overrides = None,
    seconds: Annotated[float, typer.Option(min=0, help="Seconds per number of workers, and for one process.")] = 20.0,
    workers: Annotated[str, typer.Option(help="Numbers of workers to measure, such as 1,2,4; default: the recipe's.")] = "",
    step_rate: Annotated[float | None, typer.Option(min=1e-9, help="Optimizer steps/s to be supplied to one device.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Measure how fast the images or clips of a recipe load, compared with a bare loop and with webdataset."""
    run = load_config(recipe, [*(overrides or []), f"data.train={json.dumps(data)}"])
    bench(run, parse_workers(workers), seconds=seconds, step_rate=step_rate, as_json=as_json)


def main() -> None:
    try:
        app(standalone_mode=False)
    except UserError as error:
        print(error, file=sys.stderr)
        leave(2)
    leave(0)


if __name__ == "__main__":
    main()
