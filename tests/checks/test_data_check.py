"""Data that is missing, cut, of the wrong kind or too little is found before a run begins."""

import json
import shutil

import pytest

from jepa_pipeline.checks.data import check_data


@pytest.fixture
def copied(shards, tmp_path):
    """A copy of the training shards that may be damaged."""
    return shutil.copytree(shards / "train", tmp_path / "copied")


def run(config, quick=False):
    return {result.name: result for result in check_data(config, quick)}


def first_tar(folder):
    return min(folder.glob("*.tar"))


def test_whole_data_is_fine(tiny):
    results = run(tiny())
    assert list(results) == ["data", "shards", "samples", "amount"]
    assert {result.level for result in results.values()} == {"ok"}, results
    assert "200 samples (images)" in results["data"].text and "200 of 200 decoded" in results["samples"].text
    assert "20 of 200 decoded" in run(tiny(), quick=True)["samples"].text


def test_videos_are_decoded_too(tiny, videos):
    clips = ["method.encoder.frames=4", "method.encoder.tubelet_size=2", "method.encoder.embed_dim=48"]
    config = tiny("method={name: vjepa, encoder: {image_size: 16, patch_size: 4}}", *clips, f"data.train={videos / 'train'}")
    assert "24 of 24 decoded" in run(config)["samples"].text


def test_videos_for_an_encoder_of_images_are_a_failure(tiny, videos):
    results = run(tiny(f"data.train={videos / 'train'}"))
    assert results["data"].level == "fail" and "holds videos" in results["data"].text and len(results) == 1


def test_a_missing_shard_is_a_failure(tiny, copied):
    first_tar(copied).unlink()
    result = run(tiny(f"data.train={copied}"))["data"]
    assert result.level == "fail" and "lacks" in result.text and "copy the folder again" in result.cure


def test_no_folder_is_a_failure(tiny, tmp_path):
    assert "is not a folder" in run(tiny(f"data.train={tmp_path / 'none'}"))["data"].text


def test_a_damaged_manifest_is_a_failure(tiny, copied):
    manifest = copied / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"samples": 7}))
    assert "says 7 samples" in run(tiny(f"data.train={copied}"))["data"].text


def test_a_truncated_shard_is_a_failure(tiny, copied):
    tar = first_tar(copied)
    with tar.open("r+b") as file:
        file.truncate(tar.stat().st_size // 2)
    results = run(tiny(f"data.train={copied}"))
    assert results["shards"].level == "fail" and "bytes, the manifest says" in results["shards"].text
    assert results["samples"].level == "fail" and "truncated" in results["samples"].text


def test_a_missing_index_is_a_failure(tiny, copied):
    min(copied.glob("*.index.json")).unlink()
    result = run(tiny(f"data.train={copied}"))["shards"]
    assert result.level == "fail" and "index.json is missing" in result.text and "jepa shards check" in result.cure


@pytest.mark.parametrize("suffix", [".tar", ".index.json"])
def test_other_bytes_of_the_same_size_are_a_failure(tiny, copied, suffix):
    path = min(copied.glob(f"*{suffix}"))
    path.write_bytes(path.read_bytes().swapcase())
    result = run(tiny(f"data.train={copied}"))["shards"]
    assert result.level == "fail" and f"the SHA-256 of {path.name} is" in result.text and "copy these files again" in result.cure
    assert run(tiny(f"data.train={copied}"), quick=True)["shards"].level == "ok", "a quick check reads no shard"


def test_few_bad_samples_are_a_warning_unless_they_stop_the_run(tiny, copied):
    index = json.loads(min(copied.glob("*.index.json")).read_text())
    offset, _ = index["members"]["png"][0]
    with first_tar(copied).open("r+b") as file:
        file.seek(offset)
        file.write(b"no png!!")
    result = run(tiny(f"data.train={copied}"))["samples"]
    assert result.level == "warn" and "1 of 200 samples cannot be used" in result.text
    assert run(tiny(f"data.train={copied}", "data.damage.policy=stop"))["samples"].level == "fail"
    assert run(tiny(f"data.train={copied}", "data.damage.limit=0.001"))["samples"].level == "fail"


def test_a_batch_larger_than_the_data_is_a_warning(tiny):
    result = run(tiny("optim.batch_size_global=256", "optim.total_samples=1024"))["amount"]
    assert result.level == "warn" and "a batch repeats samples" in result.text


def test_a_window_smaller_than_two_batches_is_a_warning(tiny, tmp_path, monkeypatch):
    import numpy as np
    from PIL import Image

    from jepa_pipeline.data.writer import png_record, write_shards

    monkeypatch.setattr("jepa_pipeline.data.writer.SHARD_SAMPLES", 4)
    monkeypatch.setattr("jepa_pipeline.checks.recipe.WINDOW_SHARDS", 2)
    image = Image.fromarray(np.zeros((20, 20, 3), np.uint8))
    records = (png_record(f"{n:03d}", image, 0) for n in range(32))
    write_shards(records, tmp_path / "many", classes=["a"], made={})
    result = run(tiny(f"data.train={tmp_path / 'many'}"))["amount"]
    assert result.level == "warn" and "windows of 8 samples" in result.text and "--shard-size" in result.cure


def test_each_source_of_a_mixture_is_looked_at(tiny, shards, tmp_path):
    results = check_data(tiny(f"data.train=[{shards / 'train'}, {tmp_path / 'none'}]"), quick=True)
    assert [(result.name, result.level) for result in results] == [
        *(("data", "ok"), ("shards", "ok"), ("samples", "ok"), ("data", "fail"))
    ]
