"""jepa shards build: a data set from a folder of images or videos."""

import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from PIL import Image

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.channel_stats import moments
from jepa_pipeline.data.decode import DecodeError, decode_as
from jepa_pipeline.data.index import load_index
from jepa_pipeline.data.manifest import Manifest, Skipped
from jepa_pipeline.data.media_folder import Source, by_suffix, deal, find_sources, printable, stray
from jepa_pipeline.data.samples import MAX_MEDIA, Kind
from jepa_pipeline.data.summary import count_videos, facts_table, normalization, say, video_lines
from jepa_pipeline.data.video import reencode
from jepa_pipeline.data.worker_pool import available_cores, in_order, progress
from jepa_pipeline.data.writer import Record, new_folder, video_record, write_shards

JPEG_QUALITY = 95
TASK_FILES: dict[Kind, int] = {"images": 4, "videos": 1}
"""Files a process prepares between two messages; those of all tasks are in memory at once."""
MAX_CRF = 51


class Reencoding(NamedTuple):
    """How videos are encoded anew, as H.264 in mp4: frames from one key frame to the next, and x264's quality, 0 the best."""

    gop: int = 12
    crf: int = 18


def build(
    root: Path,
    out: Path,
    *,
    size: int | None = None,
    reencode: Reencoding | None = None,
    shard_size: int = 256,
    split: float = 0.0,
    seed: int = 0,
    workers: int | None = None,
) -> dict[Path, Manifest]:
    """Write the images, or the videos, under a folder, at any depth, as shards; the manifest of each folder written.

    Images are JPEG, PNG and WebP, videos are mp4, mov, m4v, mkv, webm, avi and gif files; hidden files are passed over, all others
    counted. With several first-level folders that hold some, their names are the classes; else there are none. The files are
    shuffled by `seed`. With `split`, that share of every class goes to OUT/test and the rest to OUT/train. With `size`, an image
    whose shorter side is longer is shrunk to it: JPEG stays JPEG, at quality 95, all else becomes PNG. With `reencode`, videos are
    encoded anew, so that few frames need be decoded to reach any other, and shrunk to `size`. All else is stored byte for byte. A
    file that cannot be decoded, of a video its first frame, or is a link to another one of the folder, is left out and named in
    the manifest.
    `shard_size` is in MB; `workers` is the number of processes, all cores unless said.

    Raises:
        UserError: there is nothing to build from, or both images and videos, `out` is not empty, or a value is out of range.
    """
    check_values(size, shard_size, split, workers)
    sources, classes, others = find_sources(root)
    kind = sources[0].kind
    check_encoding(kind, size, reencode)
    parts = deal(sources, split, seed)
    if beside := stray(sources, root):
        say([f"no classes, because {beside} lies beside the folders: move such files into one of them to have labels"])
    workers = workers or available_cores()
    made = {"size": size, "split": split, "seed": seed, **(reencode._asdict() if reencode else {})}
    began = perf_counter()
    manifests = {}
    with new_folder(out) as folder, ProcessPoolExecutor(workers) as pool:
        for part, files in parts.items():
            jobs = [(record_key(number, source.path), source) for number, source in enumerate(files)]
            prepared = in_order(pool, workers, partial(prepare, root, size, reencode), jobs, TASK_FILES[kind])
            manifests[out / part] = write_shards(
                progress(prepared, f"writing {out / part}", len(jobs)),
                folder / part,
                classes=classes,
                made={"source": root.resolve().name, "part": part, **made},
                shard_size=shard_size,
            )
    summarize(manifests, others, perf_counter() - began)
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


def reencoding(reencode: bool, gop: int | None, crf: int | None) -> Reencoding | None:
    """What the options of the command line ask for.

    Raises:
        UserError: there are settings for what is not asked for, or one is out of range.
    """
    given = {name: value for name, value in (("gop", gop), ("crf", crf)) if value is not None}
    if not reencode and given:
        name, value = next(iter(given.items()))
        raise UserError(f"--{name} is {value}, but videos are stored as they are: add --reencode, or leave it out")
    how = Reencoding(**given)
    if how.gop < 1:
        raise UserError(f"--gop is {how.gop}: from one key frame to the next it is at least 1 frame")
    if not 0 <= how.crf <= MAX_CRF:
        raise UserError(f"--crf is {how.crf}: x264 has qualities from 0, the best, to {MAX_CRF}")
    return how if reencode else None


def check_encoding(kind: Kind, size: int | None, reencode: Reencoding | None) -> None:
    if kind == "images" and reencode:
        raise UserError("--reencode is for videos, and the folder holds images: leave it out, --size alone shrinks images")
    if kind == "videos" and size and not reencode:
        raise UserError(f"--size is {size}, but videos are stored as they are: add --reencode to shrink them, or leave it out")


def record_key(number: int, path: Path) -> str:
    """A running number, which makes it unique, and the file's name without what a member's name cannot hold."""
    return f"{number:08d}_{re.sub('[^A-Za-z0-9_-]+', '-', path.stem)[:48]}"


def prepare(root: Path, size: int | None, reencode: Reencoding | None, job: tuple[str, Source]) -> Record | Skipped:
    """One file as it is to be stored."""
    key, source = job
    name = printable(str(source.path.relative_to(root)))
    if source.path.is_symlink() and source.path.resolve().is_relative_to(root.resolve()):
        reason = f"it is a link to another {source.kind[:-1]} of the folder"  # stored twice it could reach both parts
        return Skipped(file=name, reason=reason)
    try:
        if source.kind == "videos":
            return prepare_video(key, source, size, reencode)
        return prepare_image(key, source, size)
    except (OSError, DecodeError) as error:
        return Skipped(file=name, reason=str(error))


def prepare_image(key: str, source: Source, size: int | None) -> Record:
    data = source.path.read_bytes()
    image, extension = decode_as(data)
    if size is not None and min(image.size) > size:
        extension = "jpg" if extension == "jpg" else "png"
        image = shrink(image, size)
        data = encode(image, extension)
    return Record(key, data, extension, source.label, moments(image))


def prepare_video(key: str, source: Source, size: int | None, how: Reencoding | None) -> Record:
    check_bytes(source.path.stat().st_size)
    data, extension = source.path.read_bytes(), source.path.suffix[1:].lower()
    if how:
        data, extension = reencode(data, size=size, gop=how.gop, crf=how.crf), "mp4"
        check_bytes(len(data))
    return video_record(key, data, extension, source.label)


def check_bytes(size: int) -> None:
    if size > MAX_MEDIA:
        raise DecodeError(f"it has {size} bytes, but a video has up to {MAX_MEDIA}: cut it into shorter ones")


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


def summarize(manifests: dict[Path, Manifest], others: Counter[str], seconds: float) -> None:
    lines = []
    for folder, manifest in manifests.items():
        size = sum(shard.bytes for shard in manifest.shards) / 1e6
        classes = f"{len(manifest.classes)} classes" if manifest.classes else "no classes"
        lines.append(f"{folder}: {manifest.samples} {manifest.kind}, {classes}, shards: {len(manifest.shards)}, {size:.1f} MB")
        if manifest.kind == "videos":
            videos = count_videos(facts_table(load_index(folder / shard.file).videos) for shard in manifest.shards)
            lines.extend(f"  {line}" for line in video_lines(videos))
        if manifest.mean and manifest.std:
            lines.append(f"  {normalization(manifest.mean, manifest.std, manifest.kind)}")
        if manifest.skipped:
            first = manifest.skipped[0]
            lines.append(f"  left out {len(manifest.skipped)}, all named in the manifest; first {first.file}: {first.reason}")
    files = sum(manifest.samples + len(manifest.skipped) for manifest in manifests.values())
    kind = next(iter(manifests.values())).kind
    lines.append(f"{files} files in {seconds:.1f} s, {files / seconds:.0f} {kind}/s")
    if others:
        lines.append(f"not read: {by_suffix(others)}")
    say(lines)
