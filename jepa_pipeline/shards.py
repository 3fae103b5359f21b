"""jepa shards: build a data set from a folder of images, and check one."""

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import NamedTuple, TypeVar

from PIL import Image
from rich.console import Console
from rich.progress import track

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.damage import check_shard
from jepa_pipeline.data.decode import DecodeError, decode_as
from jepa_pipeline.data.folder import Source, deal, find_images, printable, stray
from jepa_pipeline.data.manifest import MANIFEST, Manifest, Skipped, read_manifest
from jepa_pipeline.data.writer import Record, moments, new_folder, write_shards

JPEG_QUALITY = 95
PARTS = ("train", "test")
TASK_IMAGES = 4
"""Images a process prepares between two messages; the full-size images of all tasks are in memory at once."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Report(NamedTuple):
    """What `check` found: samples checked, and one sentence for each thing that is wrong."""

    samples: int
    problems: list[str]


def build(
    images: Path,
    out: Path,
    *,
    size: int | None = None,
    shard_size: int = 256,
    split: float = 0.0,
    seed: int = 0,
    workers: int | None = None,
) -> dict[Path, Manifest]:
    """Write the JPEG, PNG and WebP images under a folder, at any depth, as shards; the manifest of each folder written.

    With several first-level folders that hold images, their names are the classes; else there are none. The files are
    shuffled by `seed`. With `split`, that share of every class goes to OUT/test and the rest to OUT/train. With `size`,
    an image whose shorter side is longer is shrunk to it: JPEG stays JPEG, at quality 95, all else becomes PNG. Other
    images are stored byte for byte. A file that cannot be decoded, or is a link to another image of the folder, is left out and
    named in the manifest.
    `shard_size` is in MB; `workers` is the number of processes, all cores unless said.

    Raises:
        UserError: there is nothing to build from, `out` is not empty, or a value is out of range.
    """
    check_values(size, shard_size, split, workers)
    sources, classes = find_images(images)
    parts = deal(sources, split, seed)
    if beside := stray(sources, images):
        say([f"no classes, because {beside} lies beside the folders: move such files into one of them to have labels"])
    workers = workers or available_cores()
    began = perf_counter()
    manifests = {}
    with new_folder(out) as folder, ProcessPoolExecutor(workers) as pool:
        for part, files in parts.items():
            jobs = [(record_key(number, source.path), source) for number, source in enumerate(files)]
            prepared = in_order(pool, workers, partial(prepare, images, size), jobs)
            manifests[out / part] = write_shards(
                progress(prepared, f"writing {out / part}", len(jobs)),
                folder / part,
                classes=classes,
                made={"source": images.resolve().name, "part": part, "size": size, "split": split, "seed": seed},
                shard_size=shard_size,
            )
    summarise(manifests, perf_counter() - began)
    return manifests


def check_values(size: int | None, shard_size: int, split: float, workers: int | None) -> None:
    if size is not None and size < 1:
        raise UserError(f"size is {size}: the shorter side of an image has at least 1 pixel")
    if shard_size < 1:
        raise UserError(f"shard_size is {shard_size}: a shard has at least 1 MB")
    if not 0 <= split < 1:
        raise UserError(f"split is {split:g}: the share of the test set is at least 0 and less than 1")
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}: at least 1 process is needed")


def available_cores() -> int:
    """Cores this process may use, which on a cluster are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def record_key(number: int, path: Path) -> str:
    """A running number, which makes it unique, and the file's name without what a member's name cannot hold."""
    return f"{number:08d}_{re.sub('[^A-Za-z0-9_-]+', '-', path.stem)[:48]}"


def prepare(root: Path, size: int | None, job: tuple[str, Source]) -> Record | Skipped:
    """One file as it is to be stored."""
    key, source = job
    name = printable(str(source.path.relative_to(root)))
    if source.path.is_symlink() and source.path.resolve().is_relative_to(root.resolve()):
        return Skipped(file=name, reason="it is a link to another image of the folder")  # stored twice it could reach both parts
    try:
        data = source.path.read_bytes()
        image, extension = decode_as(data)
    except (OSError, DecodeError) as error:
        return Skipped(file=name, reason=str(error))
    if size is not None and min(image.size) > size:
        extension = "jpg" if extension == "jpg" else "png"
        image = shrink(image, size)
        data = encode(image, extension)
    return Record(key, data, extension, source.label, moments(image))


def shrink(image: Image.Image, size: int) -> Image.Image:
    short = min(image.size)
    width, height = (max(1, round(side * size / short)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def encode(image: Image.Image, extension: str) -> bytes:
    stream = BytesIO()
    if extension == "jpg":
        image.save(stream, "JPEG", quality=JPEG_QUALITY)
    else:
        image.save(stream, "PNG")
    return stream.getvalue()


def in_order(pool: Executor, workers: int, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """The function of every item, in their order, computed by the pool only so far ahead that memory stays bounded.

    The pool starts at once, so that it does not fork a process in which a progress bar's thread is running.
    """
    tasks = (items[start : start + TASK_IMAGES] for start in range(0, len(items), TASK_IMAGES))
    submitted = (pool.submit(apply, function, task) for task in tasks)
    return results(deque(islice(submitted, 2 * workers)), submitted)


def results(pending: deque[Future[list[Result]]], submitted: Iterator[Future[list[Result]]]) -> Iterator[Result]:
    while pending:
        yield from pending.popleft().result()
        pending.extend(islice(submitted, 1))


def apply(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]


def progress(items: Iterable[Item], title: str, total: int) -> Iterable[Item]:
    return track(items, title, total, console=Console(stderr=True))


def summarise(manifests: dict[Path, Manifest], seconds: float) -> None:
    lines = []
    for folder, manifest in manifests.items():
        size = sum(shard.bytes for shard in manifest.shards) / 1e6
        classes = f"{len(manifest.classes)} classes" if manifest.classes else "no classes"
        lines.append(f"{folder}: {manifest.samples} images, {classes}, shards: {len(manifest.shards)}, {size:.1f} MB")
        if manifest.mean and manifest.std:
            lines.append(f"  views.mean={short(manifest.mean)} views.std={short(manifest.std)} would normalise them exactly")
        if manifest.skipped:
            first = manifest.skipped[0]
            lines.append(f"  left out {len(manifest.skipped)}, all named in the manifest; first {first.file}: {first.reason}")
    files = sum(manifest.samples + len(manifest.skipped) for manifest in manifests.values())
    lines.append(f"{files} files in {seconds:.1f} s, {files / seconds:.0f} images/s")
    say(lines)


def short(values: Iterable[float]) -> str:
    return f"[{', '.join(f'{value:.3f}' for value in values)}]"


def say(lines: Iterable[str]) -> None:
    """Print to the terminal, not to the output that others may read."""
    console = Console(stderr=True, soft_wrap=True)
    for line in lines:
        console.print(line, markup=False, highlight=False)


def check(folder: Path, *, workers: int | None = None) -> Report:
    """Read every shard of a data set, or of the train/ and test/ in it, whole.

    What is compared: SHA-256, size, index, count, each image decoded, each label.

    Raises:
        UserError: there is no manifest, or it cannot be read.
    """
    parts = [folder / part for part in PARTS if (folder / part / MANIFEST).is_file()] or [folder]
    sets = {part: read_manifest(part) for part in parts}
    with ProcessPoolExecutor(workers or available_cores()) as pool:
        checks = {part: start_checks(pool, part, manifest) for part, manifest in sets.items()}
        problems = {part: list(finish_checks(part, futures)) for part, futures in checks.items()}
    for part, manifest in sets.items():
        say([*problems[part], f"{part}: samples checked: {manifest.samples}, problems: {len(problems[part])}"])
    return Report(sum(manifest.samples for manifest in sets.values()), [line for lines in problems.values() for line in lines])


def start_checks(pool: Executor, folder: Path, manifest: Manifest) -> list[Future[list[str]]]:
    classes = None if manifest.classes is None else len(manifest.classes)
    return [pool.submit(check_shard, folder, classes, shard) for shard in manifest.shards]


def finish_checks(folder: Path, futures: list[Future[list[str]]]) -> Iterator[str]:
    for problems in progress((future.result() for future in futures), f"checking {folder}", len(futures)):
        yield from problems
