"""jepa shards build: a data set from a folder of images."""

import re
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from time import perf_counter

from PIL import Image

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.decode import DecodeError, decode_as
from jepa_pipeline.data.folder import Source, deal, find_images, printable, stray
from jepa_pipeline.data.manifest import Manifest, Skipped
from jepa_pipeline.data.moments import moments
from jepa_pipeline.data.parallel import available_cores, in_order, progress
from jepa_pipeline.data.summary import normalisation, say
from jepa_pipeline.data.writer import Record, new_folder, write_shards

JPEG_QUALITY = 95
TASK_IMAGES = 4
"""Images a process prepares between two messages; the full-size images of all tasks are in memory at once."""


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
            prepared = in_order(pool, workers, partial(prepare, images, size), jobs, TASK_IMAGES)
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


def summarise(manifests: dict[Path, Manifest], seconds: float) -> None:
    lines = []
    for folder, manifest in manifests.items():
        size = sum(shard.bytes for shard in manifest.shards) / 1e6
        classes = f"{len(manifest.classes)} classes" if manifest.classes else "no classes"
        lines.append(f"{folder}: {manifest.samples} images, {classes}, shards: {len(manifest.shards)}, {size:.1f} MB")
        if manifest.mean and manifest.std:
            lines.append(f"  {normalisation(manifest.mean, manifest.std)}")
        if manifest.skipped:
            first = manifest.skipped[0]
            lines.append(f"  left out {len(manifest.skipped)}, all named in the manifest; first {first.file}: {first.reason}")
    files = sum(manifest.samples + len(manifest.skipped) for manifest in manifests.values())
    lines.append(f"{files} files in {seconds:.1f} s, {files / seconds:.0f} images/s")
    say(lines)
