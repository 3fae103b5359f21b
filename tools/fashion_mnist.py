"""Convert Fashion-MNIST (Xiao et al. 2017) to shards: python tools/fashion_mnist.py OUT writes OUT/train and OUT/test.

60,000 and 10,000 gray images of 28x28 pixels in ten classes, from the IDX files of the Debian package dataset-fashion-mnist.
"""

import argparse
import gzip
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.unfinished import new_folder
from jepa_pipeline.data.writer import Record, png_record, write_shards

SOURCE = Path("/usr/share/datasets/fashion-mnist")
PARTS = {"train": "train", "test": "t10k"}
CLASSES = ("t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
IDX_HEADER = {"images": 16, "labels": 8}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the four idx.gz files (default %(default)s)")
    arguments = parser.parse_args()
    try:
        convert(arguments.source, arguments.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def convert(source: Path, out: Path) -> None:
    """Write the training and the test set.

    Raises:
        UserError: a source file is missing, or `out` is not empty.
    """
    with new_folder(out) as folder:
        for part, prefix in PARTS.items():
            images = read_idx(source / f"{prefix}-images-idx3-ubyte.gz", "images").reshape(-1, 28, 28)
            labels = read_idx(source / f"{prefix}-labels-idx1-ubyte.gz", "labels")
            manifest = write_shards(
                records(images, labels), folder / part, classes=CLASSES, made={"source": "Fashion-MNIST", "part": part}
            )
            print(f"{out / part}: {manifest.samples} images, shards: {len(manifest.shards)}, data {manifest.hash()}")


def read_idx(path: Path, kind: str) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{path} is missing: `apt install dataset-fashion-mnist`, or give the folder that has it as --source")
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=IDX_HEADER[kind])


def records(images: np.ndarray, labels: np.ndarray) -> Iterator[Record]:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield png_record(f"{number:06d}", Image.fromarray(image), int(label))


if __name__ == "__main__":
    sys.exit(main())
