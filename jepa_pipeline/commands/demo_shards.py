"""`jepa shards demo`, `demo-video` and `demo-scales`: generate small labeled data sets, with nothing to download."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.console import track
from jepa_pipeline.data.manifest import Manifest
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.data.summary import format_pixels, print_lines
from jepa_pipeline.data.unfinished import new_folder
from jepa_pipeline.data.video_writer import encode_video
from jepa_pipeline.data.writer import Record, png_record, video_record, write_shards
from jepa_pipeline.synthetic.moving_shapes import DIRECTIONS, generate_moving_shape
from jepa_pipeline.synthetic.shapes import CLASSES, generate_shapes
from jepa_pipeline.synthetic.two_scales import DOT_DIRECTIONS, HUE_SPEEDS, generate_two_scales

SIDE, TEST_SHARE = 40, 0.2
FRAMES, LONG_FRAMES, FPS = 24, 40, 12.0


def demo(out: Path, images: int = 5000, seed: int = 0) -> dict[Path, Manifest]:
    """Generate images of ten shapes, 40x40 pixels, as OUT/train and, a fifth of them, OUT/test; return both manifests.

    Raises:
        UserError: there are too few images for every shape to be in both parts, or `out` is not empty.
    """
    test = count_test("--images", images, len(CLASSES), "shapes", 50)
    records = (png_record(f"{i:08d}", *shape) for i, shape in enumerate(generate_shapes(images, SIDE, seed)))
    manifests = write_parts(out, records, images - test, test, CLASSES, {"source": "shapes", "seed": seed})
    print_summary(manifests, f"images, {len(CLASSES)} classes")
    return manifests


def demo_video(out: Path, videos: int = 2000, seed: int = 0) -> dict[Path, Manifest]:
    """Generate videos of a shape that moves in one of eight directions, as OUT/train and, a fifth of them, OUT/test.

    A video has 24 frames of 40x40 pixels at 12 per second. Returns both manifests.

    Raises:
        UserError: there are too few videos for every direction to be in both parts, `out` is not empty, or PyAV is missing.
    """
    test = count_test("--videos", videos, len(DIRECTIONS), "directions", 40)
    records = generate_moving_records(videos, np.random.default_rng(seed))
    manifests = write_parts(out, records, videos - test, test, DIRECTIONS, {"source": "moving shapes", "seed": seed})
    print_summary(manifests, f"videos of {FRAMES} frames, {len(DIRECTIONS)} classes")
    return manifests


def demo_scales(out: Path, videos: int = 6000, seed: int = 0) -> dict[Path, Manifest]:
    """Generate videos of a fast dot in a scene whose hue changes slowly, 40 frames of 40x40 pixels at 12 per second.

    The classes of OUT/fast are the dot's four directions, those of OUT/slow the hue's four speeds, in the same videos; in
    both the last fifth is test/, the rest train/. Returns the four manifests.

    Raises:
        UserError: there are too few videos for every pair of classes to be in both parts, `out` is not empty, or PyAV is
            missing.
    """
    test = count_test("--videos", videos, len(DOT_DIRECTIONS) * len(HUE_SPEEDS), "pairs of classes", 80)
    records = generate_two_scales_records(videos, np.random.default_rng(seed))
    manifests = {}
    with new_folder(out) as folder:
        for part, count in (("train", videos - test), ("test", test)):
            made = {"source": "two time scales", "seed": seed, "part": part}
            batch = (next(records) for _ in track(range(count), f"generating {out / '*' / part}", count))
            fast, slow = folder / "fast" / part, folder / "slow" / part
            manifests[out / "fast" / part] = write_shards(batch, fast, classes=DOT_DIRECTIONS, made={**made, "factor": "fast"})
            manifests[out / "slow" / part] = write_shards(
                relabel_slow(fast), slow, classes=HUE_SPEEDS, made={**made, "factor": "slow"}
            )
    print_summary(manifests, f"videos of {LONG_FRAMES} frames, {len(DOT_DIRECTIONS)} classes")
    return manifests


def count_test(option: str, samples: int, classes: int, unit: str, least: int) -> int:
    test = round(samples * TEST_SHARE)
    if test < classes:
        raise UserError(
            f"{option} is {samples}: a fifth is the test set, with one of each of {classes} {unit}: give {least} or more"
        )
    return test


def write_parts(
    out: Path,
    records: Iterator[Record],
    train: int,
    test: int,
    classes: Iterable[str],
    made: dict[str, str | int | float | None],
) -> dict[Path, Manifest]:
    manifests = {}
    with new_folder(out) as folder:
        for part, count in (("train", train), ("test", test)):
            batch = (next(records) for _ in track(range(count), f"generating {out / part}", count))
            manifests[out / part] = write_shards(batch, folder / part, classes=classes, made={**made, "part": part})
    return manifests


def print_summary(manifests: dict[Path, Manifest], contents: str) -> None:
    print_lines(f"{path}: {manifest.samples} {contents}" for path, manifest in manifests.items())
    train = next(iter(manifests.values()))
    print_lines(f"  {line}" for line in format_pixels(train.kind, train.mean, train.std, train.stored))


def generate_moving_records(videos: int, generator: np.random.Generator) -> Iterator[Record]:
    for index in range(videos):
        label = index % len(DIRECTIONS)
        frames = generate_moving_shape(label, FRAMES, SIDE, generator)
        yield video_record(f"{index:08d}", encode_video(frames, FPS), "mp4", label)


def generate_two_scales_records(videos: int, generator: np.random.Generator) -> Iterator[Record]:
    for index in range(videos):
        slow, fast = slow_and_fast_labels(index)
        frames = generate_two_scales(list(DOT_DIRECTIONS)[fast], list(HUE_SPEEDS)[slow], LONG_FRAMES, SIDE, generator)
        yield video_record(f"{index:08d}", encode_video(frames, FPS), "mp4", fast)


def relabel_slow(fast: Path) -> Iterator[Record]:
    """Yield the videos of a folder with their slow labels; they are read back because all may not fit in memory."""
    shards = Shards(fast)
    for shard, member in shards.locate(range(shards.manifest.samples)):
        opened = shards.open(shard)
        key = opened.key(member)
        label, _ = slow_and_fast_labels(int(key))
        yield video_record(key, opened.media(member), "mp4", label)


def slow_and_fast_labels(index: int) -> tuple[int, int]:
    return divmod(index % (len(DOT_DIRECTIONS) * len(HUE_SPEEDS)), len(DOT_DIRECTIONS))
