"""Nuisance is independent of the class, and two images of a class share hardly anything else."""

import numpy as np

from jepa_pipeline.synthetic.shapes import CLASSES
from jepa_pipeline.synthetic.varied_shapes import BATCH, generate_varied_shapes, render

SIDE = 32


def test_only_the_outline_depends_on_the_class():
    bars, rings = (render(np.full(50, label), SIDE, np.random.default_rng(0)) for label in (0, 5))
    np.testing.assert_array_equal(bars[:, 0, 0], rings[:, 0, 0])  # the corner, which neither shape reaches
    assert all(np.any(bar != ring) for bar, ring in zip(bars, rings, strict=True))


def test_no_pixel_tells_the_classes_apart():
    """The classes' mean images are as near to each other as those of two halves of one class."""
    images = render(np.arange(4000) % len(CLASSES), SIDE, np.random.default_rng(0)).astype(np.float32)
    by_class = [images[label :: len(CLASSES)].mean(0) for label in range(len(CLASSES))]
    halves = images[:: 2 * len(CLASSES)].mean(0) - images[len(CLASSES) :: 2 * len(CLASSES)].mean(0)
    between = np.std([mean - np.mean(by_class, axis=0) for mean in by_class])
    assert between < np.std(halves)


def test_a_seed_gives_the_same_images_again_and_another_seed_others():
    first, again, other = (list(generate_varied_shapes(BATCH + 5, SIDE, seed)) for seed in (0, 0, 1))
    assert [label for _, label in first] == [index % len(CLASSES) for index in range(BATCH + 5)]
    assert [image.tobytes() for image, _ in first] == [image.tobytes() for image, _ in again]
    assert all(image.tobytes() != changed.tobytes() for (image, _), (changed, _) in zip(first, other, strict=True))
