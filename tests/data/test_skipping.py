"""An unusable sample is replaced by the next usable one of its data set and named, and all others stay where they are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from streams import load_stream

from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.shards import SampleError
from jepa_pipeline.data.writer import Record, png_record, write_shards
from jepa_pipeline.masks.build import build_mask_sampler

TOTAL, BATCH = 24, 8


def write(folder: Path, broken: set[int]) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (TOTAL, 12, 12, 3), np.uint8)
    records = [png_record(f"k{n:02d}", Image.fromarray(image), n % 3) for n, image in enumerate(pixels)]
    damaged = [record._replace(media=b"no image") if n in broken else record for n, record in enumerate(records)]
    assert all(isinstance(record, Record) for record in damaged)
    write_shards(damaged, folder, classes=("a", "b", "c"), made={})
    return folder


def config(folder: Path, **data: object) -> RunConfig:
    encoder = {"image_size": 8, "patch_size": 1, "embed_dim": 8, "depth": 1, "num_heads": 1}
    return RunConfig.model_validate(
        {
            "name": "test",
            "data": {"train": folder, "workers": 0, **data},
            "views": {"crops": [{"flip": 0.5}]},
            "method": {"name": "ijepa", "encoder": encoder},
            "optim": {"batch_size_global": BATCH, "total_samples": 2 * TOTAL},
        }
    )


def read(run: RunConfig, start: int = 0, world: int = 1) -> dict[str, list]:
    """Everything of the stream, sample by sample."""
    masks = [build_mask_sampler(run.method.masks, run.method.encoder.clip_grid)]
    loaders = [load_stream(run, masks, start_samples=start, rank=rank, world_size=world) for rank in range(world)]
    batches = [batch for parts in zip(*loaders, strict=True) for batch in parts]
    return {
        "keys": [key for batch in batches for key in batch.keys],
        "views": list(torch.cat([batch.views[0] for batch in batches])),
        "masks": list(torch.cat([batch.masks[0].context for batch in batches])),
        "labels": torch.cat([batch.labels for batch in batches]).tolist(),
        "damaged": [damaged for batch in batches for damaged in batch.damaged],
    }


def test_others_do_not_move(tmp_path: Path):
    whole, skipping = read(config(write(tmp_path / "whole", set()))), read(config(write(tmp_path / "broken", {3, 4, 17})))
    bad = {"k03", "k04", "k17"}
    assert len(skipping["keys"]) == 2 * TOTAL
    for place, key in enumerate(whole["keys"]):
        assert torch.equal(whole["masks"][place], skipping["masks"][place])
        if key not in bad:
            assert skipping["keys"][place] == key and skipping["labels"][place] == whole["labels"][place]
            assert torch.equal(whole["views"][place], skipping["views"][place])
        else:
            later = [other for other in whole["keys"][place + 1 :] if other not in bad]
            assert not later or skipping["keys"][place] == later[0]
    assert sorted(damaged.sample for damaged in skipping["damaged"]) == [3, 3, 4, 4, 17, 17]
    assert all("it is not a JPEG, PNG or WebP image" in damaged.reason for damaged in skipping["damaged"])


@pytest.mark.parametrize(("workers", "world"), [(2, 1), (0, 2), (1, 4)])
def test_replacements_depend_on_nothing_else(tmp_path: Path, workers: int, world: int):
    folder = write(tmp_path / "broken", {3, 4, 17})
    expected, found = read(config(folder)), read(config(folder, workers=workers), world=world)
    assert expected["keys"] == found["keys"]
    assert all(map(torch.equal, expected["views"], found["views"]))
    assert sorted(expected["damaged"]) == sorted(found["damaged"])
    assert read(config(folder), start=2 * BATCH)["keys"] == expected["keys"][2 * BATCH :]


@pytest.mark.parametrize("workers", [0, 1])
def test_policy_stop_stops(tmp_path: Path, workers: int):
    folder = write(tmp_path / "broken", {3})
    with pytest.raises(SampleError, match=r"sample k03 of .* cannot be used"):
        read(config(folder, workers=workers, damage={"policy": "stop"}))


def test_a_data_set_without_a_whole_sample_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jepa_pipeline.data.dataset.MAX_REPLACEMENTS", 30)
    with pytest.raises(SampleError, match="30 samples in a row cannot be used"):
        read(config(write(tmp_path / "broken", set(range(TOTAL)))))


def test_a_mixture_reads_its_sources_at_their_shares(tmp_path: Path):
    first, second = write(tmp_path / "first", set()), write(tmp_path / "second", {5})
    run = config(first, train=[{"path": str(first), "weight": 3}, {"path": str(second)}])
    assert len(read(run)["keys"]) == 2 * TOTAL
    assert read(run)["keys"] == read(run, world=2)["keys"]


def test_a_sample_beyond_the_limit_of_pixels_is_skipped_and_named(tmp_path: Path):
    folder = write(tmp_path / "whole", set())
    limit = {"max_megapixels": 143e-6}
    with pytest.raises(SampleError, match=r"sample k\d\d of .*\(it has 12x12 pixels, .*raise data.damage.max_megapixels, or"):
        read(config(folder, damage={**limit, "policy": "stop"}))
    large = png_record("large", Image.new("RGB", (60, 40)), 0)
    pixels = np.random.default_rng(0).integers(0, 256, (TOTAL - 1, 12, 12, 3), np.uint8)
    small = [png_record(f"k{n:02d}", Image.fromarray(image), 1) for n, image in enumerate(pixels)]
    write_shards([*small, large], tmp_path / "mixed", classes=("a", "b"), made={})
    found = read(config(tmp_path / "mixed", damage={"max_megapixels": 144.5e-6}))
    assert {damaged.sample for damaged in found["damaged"]} == {TOTAL - 1} and "large" not in found["keys"]
