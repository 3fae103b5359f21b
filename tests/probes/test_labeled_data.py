"""Labels come from the indexes, of all shards and in the samples' order."""

import numpy as np
import pytest
from PIL import Image

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.shards import SampleError, Shards
from jepa_pipeline.data.writer import png_record, write_shards
from jepa_pipeline.probes.labeled_data import open_labeled_sets, read_labels

LABELS = [number * 7 % 3 for number in range(11)]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr("jepa_pipeline.data.writer.SHARD_SAMPLES", 4)


def write_set(folder, labels, classes):
    image = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    write_shards((png_record(f"{n:02d}", image, label) for n, label in enumerate(labels)), folder, classes=classes, made={})
    return Shards(folder)


def test_labels_are_those_of_the_samples(tmp_path):
    shards = write_set(tmp_path, LABELS, ("a", "b", "c"))
    assert len(shards.counts) == 3 and read_labels(shards).tolist() == LABELS


def test_unlabeled_samples_are_counted(tmp_path):
    with pytest.raises(UserError, match=r"11 of 11 samples of .* have no label: probes need labeled shards"):
        read_labels(write_set(tmp_path, [None] * 11, None))


def test_a_missing_shard_is_named(tmp_path):
    shards = write_set(tmp_path, LABELS, ("a", "b", "c"))
    (tmp_path / "shard-000001.tar").unlink()
    with pytest.raises(SampleError, match=r"shard-000001.tar cannot be used \(its shard is missing\)"):
        read_labels(shards)


def test_a_folder_of_images_is_not_where_shards_are_built(tmp_path):
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "photos/cat/a.jpg").touch()
    with pytest.raises(
        UserError, match=r"make them with `jepa shards build .*/photos SHARDS --split 0.1` and name SHARDS, or name"
    ):
        open_labeled_sets(str(tmp_path / "photos"), None)
    with pytest.raises(UserError, match=r"if they moved, name their new place, else make them with `jepa shards demo .*/demo`"):
        open_labeled_sets(str(tmp_path / "demo"), None)
