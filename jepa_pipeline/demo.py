"""`jepa shards demo`: a small labelled data set drawn on the spot, with nothing to download."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.manifest import Manifest
from jepa_pipeline.data.summary import normalisation, say
from jepa_pipeline.data.synthetic import SHAPES, draw_shape
from jepa_pipeline.data.writer import Record, new_folder, png_record, write_shards

SIDE, TEST_SHARE = 40, 0.2


def demo(out: Path, images: int = 5000, seed: int = 0) -> dict[Path, Manifest]:
    """Draw images of ten shapes, 40x40 pixels, as OUT/train and, a fifth of them, OUT/test; the manifest of each.

    Raises:
        UserError: there are too few images for both parts to have every shape, or `out` is not empty.
    """
    test = round(images * TEST_SHARE)
    if test < len(SHAPES):
        raise UserError(f"--images is {images}: a fifth is the test set, with one of each of {len(SHAPES)} shapes: give 50 or more")
    drawn = draw(images, np.random.default_rng(seed))
    manifests = {}
    with new_folder(out) as folder:
        for part, count in (("train", images - test), ("test", test)):
            records = (next(drawn) for _ in track(range(count), f"drawing {out / part}"))
            made = {"source": "shapes", "part": part, "seed": seed}
            manifests[out / part] = write_shards(records, folder / part, classes=list(SHAPES), made=made)
    say([f"{path}: {manifest.samples} images, {len(SHAPES)} classes" for path, manifest in manifests.items()])
    train = manifests[out / "train"]
    if train.mean and train.std:
        say([f"  {normalisation(train.mean, train.std)}"])
    return manifests


def draw(images: int, generator: np.random.Generator) -> Iterator[Record]:
    """The shapes in turn."""
    for number in range(images):
        label = number % len(SHAPES)
        image = Image.fromarray(draw_shape(list(SHAPES)[label], SIDE, generator))
        yield png_record(f"{number:08d}", image, label)
