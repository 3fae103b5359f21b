"""`jepa shards demo`, `demo-video` and `demo-scales`: small labeled data sets drawn on the spot, with nothing to download."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.manifest import Manifest
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.data.summary import normalization, say
from jepa_pipeline.data.video import encode_video
from jepa_pipeline.data.writer import Record, new_folder, png_record, video_record, write_shards
from jepa_pipeline.synthetic.moving import DIRECTIONS, draw_moving
from jepa_pipeline.synthetic.shapes import SHAPES, draw_shape
from jepa_pipeline.synthetic.two_scales import TURNS, WAYS, draw_two_scales

SIDE, TEST_SHARE = 40, 0.2
FRAMES, LONG_FRAMES, FPS = 24, 40, 12.0


def demo(out: Path, images: int = 5000, seed: int = 0) -> dict[Path, Manifest]:
    """Draw images of ten shapes, 40x40 pixels, as OUT/train and, a fifth of them, OUT/test; the manifest of each.

    Raises:
        UserError: there are too few images for both parts to have every shape, or `out` is not empty.
    """
    test = round(images * TEST_SHARE)
    if test < len(SHAPES):
        raise UserError(f"--images is {images}: a fifth is the test set, with one of each of {len(SHAPES)} shapes: give 50 or more")
    drawn = draw(images, np.random.default_rng(seed))
    manifests = write_parts(out, drawn, images - test, test, list(SHAPES), {"source": "shapes", "seed": seed})
    report(manifests, f"images, {len(SHAPES)} classes")
    return manifests


def demo_video(out: Path, videos: int = 2000, seed: int = 0) -> dict[Path, Manifest]:
    """Draw videos of a shape that moves in one of eight directions, 24 frames of 40x40 pixels at 12 a second, as OUT/train and, a
    fifth of them, OUT/test; the manifest of each.

    Raises:
        UserError: there are too few videos for both parts to have every direction, `out` is not empty, or PyAV is missing.
    """
    test = round(videos * TEST_SHARE)
    if test < len(DIRECTIONS):
        raise UserError(
            f"--videos is {videos}: a fifth is the test set, with one of each of {len(DIRECTIONS)} directions: give 40 or more"
        )
    drawn = draw_videos(videos, np.random.default_rng(seed))
    manifests = write_parts(out, drawn, videos - test, test, DIRECTIONS, {"source": "moving shapes", "seed": seed})
    report(manifests, f"videos of {FRAMES} frames, {len(DIRECTIONS)} classes")
    return manifests


def demo_scales(out: Path, videos: int = 6000, seed: int = 0) -> dict[Path, Manifest]:
    """Draw videos of a part that darts about in a scene whose color slowly turns, 40 frames of 40x40 pixels at 12 a second.

    OUT/fast has the part's four directions for classes, OUT/slow the same videos with the color's four turns; in both the last
    fifth is test/, the rest train/. The manifest of each of the four.

    Raises:
        UserError: there are too few videos for both parts to have every pair of classes, `out` is not empty, or PyAV is missing.
    """
    test, pairs = round(videos * TEST_SHARE), len(WAYS) * len(TURNS)
    if test < pairs:
        raise UserError(
            f"--videos is {videos}: a fifth is the test set, with one of each of {pairs} pairs of classes: give 80 or more"
        )
    drawn = draw_scales(videos, np.random.default_rng(seed))
    manifests = {}
    with new_folder(out) as folder:
        for part, count in (("train", videos - test), ("test", test)):
            made = {"source": "two time scales", "seed": seed, "part": part}
            records = (next(drawn) for _ in track(range(count), f"drawing {out / '*' / part}"))
            fast, slow = folder / "fast" / part, folder / "slow" / part
            manifests[out / "fast" / part] = write_shards(records, fast, classes=WAYS, made={**made, "factor": "fast"})
            manifests[out / "slow" / part] = write_shards(drifting(fast), slow, classes=TURNS, made={**made, "factor": "slow"})
    report(manifests, f"videos of {LONG_FRAMES} frames, {len(WAYS)} classes")
    return manifests


def write_parts(
    out: Path, drawn: Iterator[Record], train: int, test: int, classes: Sequence[str], made: dict[str, str | int | float | None]
) -> dict[Path, Manifest]:
    manifests = {}
    with new_folder(out) as folder:
        for part, count in (("train", train), ("test", test)):
            records = (next(drawn) for _ in track(range(count), f"drawing {out / part}"))
            manifests[out / part] = write_shards(records, folder / part, classes=classes, made={**made, "part": part})
    return manifests


def report(manifests: dict[Path, Manifest], what: str) -> None:
    """Print what was drawn and how the first part is normalized."""
    say([f"{path}: {manifest.samples} {what}" for path, manifest in manifests.items()])
    train = next(iter(manifests.values()))
    if train.mean and train.std:
        say([f"  {normalization(train.mean, train.std)}"])


def draw(images: int, generator: np.random.Generator) -> Iterator[Record]:
    """The shapes in turn."""
    for number in range(images):
        label = number % len(SHAPES)
        image = Image.fromarray(draw_shape(list(SHAPES)[label], SIDE, generator))
        yield png_record(f"{number:08d}", image, label)


def draw_videos(videos: int, generator: np.random.Generator) -> Iterator[Record]:
    """The directions in turn."""
    for number in range(videos):
        label = number % len(DIRECTIONS)
        frames = draw_moving(label, FRAMES, SIDE, generator)
        yield video_record(f"{number:08d}", encode_video(frames, FPS), "mp4", label)


def draw_scales(videos: int, generator: np.random.Generator) -> Iterator[Record]:
    """The pairs of way and turn in turn, labeled by the part."""
    for number in range(videos):
        slow, label = slow_and_fast(number)
        frames = draw_two_scales(list(WAYS)[label], list(TURNS)[slow], LONG_FRAMES, SIDE, generator)
        yield video_record(f"{number:08d}", encode_video(frames, FPS), "mp4", label)


def drifting(fast: Path) -> Iterator[Record]:
    """The videos of a folder that is labeled by the part, labeled by the color: read back, for all may not fit in memory."""
    shards = Shards(fast)
    for shard, member in shards.locate(range(shards.manifest.samples)):
        sample = shards.read(shard, member)
        label, _ = slow_and_fast(int(sample.key))
        yield video_record(sample.key, sample.media, "mp4", label)


def slow_and_fast(number: int) -> tuple[int, int]:
    """Both labels of a video."""
    return divmod(number % (len(WAYS) * len(TURNS)), len(WAYS))
