"""`jepa shards check` and `stats`: what is counted is what is in the shards, in one JSON object or a page."""

import io
import json
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jepa_pipeline.commands.build_shards import build
from jepa_pipeline.commands.check_shards import check
from jepa_pipeline.commands.index_shards import index
from jepa_pipeline.commands.shard_stats import stats
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.index import ShardIndex, save_index
from jepa_pipeline.data.manifest import load_manifest
from jepa_pipeline.data.summary import format_class_table
from jepa_pipeline.data.verify import ShardReport, key_hashes
from jepa_pipeline.data.verify_set import repeated_keys
from jepa_pipeline.data.writer import png_record, write_shards

SIDES = (20, 24, 31, 40, 20)
PIXELS = [np.random.default_rng(n).integers(0, 256, (side, side + 3, 3), np.uint8) for n, side in enumerate(SIDES)]
LABELS = (0, 2, 2, 2, 0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("jepa_pipeline.data.writer.SHARD_SAMPLES", 2)
    records = [
        png_record(f"k{n}", Image.fromarray(pixels), label) for n, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True))
    ]
    write_shards(records, tmp_path / "set", classes=("cat", "dog", "cat"), made={})
    return tmp_path / "set"


def test_check_measures_the_images(folder: Path, capsys: pytest.CaptureFixture[str]):
    report = check(folder, workers=1)
    (part,) = report.parts
    assert report.ok and (report.samples, report.problems, report.warnings) == (5, [], [])
    assert part.mean == pytest.approx(np.mean([pixels.mean((0, 1)) / 255 for pixels in PIXELS], 0), abs=1e-6)
    assert (part.mean, part.std) == (load_manifest(folder).mean, load_manifest(folder).std)
    assert part.shorter_side.model_dump() == {"min": 20, "median": 24, "max": 40}
    assert part.classes == {"cat": 2, "dog": 0, "cat (2)": 3}
    assert part.extensions == {"cls": 5, "png": 5}
    said = capsys.readouterr().out
    assert "samples: 5, shards: 3, problems: 0, warnings: 0" in said
    assert "views.mean=[0." in said and "20 to 40, median 24" in said and "3 classes, 1 of them empty" in said


@pytest.mark.parametrize(("largest", "odd"), [(4095, True), (16_300, True), (16_500, False), (65_535, False)])
def test_a_set_of_16_bit_images_that_uses_a_small_part_of_its_range_is_remarked_on(
    tmp_path: Path, largest: int, odd: bool, capsys: pytest.CaptureFixture[str]
):
    for number, side in enumerate((20, 24, 30)):
        deep = np.linspace(0, largest // (3 - number), side * side).astype(np.uint16).reshape(side, side)
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(deep).save(tmp_path / "in" / f"{number}.png")
    Image.fromarray(PIXELS[0]).save(tmp_path / "in" / "bright.png")
    sentence = f"3 images have 16 bits per channel, but as 8-bit images none is brighter than {round(largest / 257)} of 255"
    build(tmp_path / "in", tmp_path / "out", size=10, workers=1)
    assert (sentence in capsys.readouterr().err) == odd
    build(tmp_path / "in", tmp_path / "whole", workers=1)
    report = check(tmp_path / "whole", workers=1)
    assert report.ok and sum(sentence in warning for warning in report.warnings) == odd
    assert len(report.warnings) == 1 + odd  # the other: that 16-bit gray and 8-bit RGB are mixed


def test_json_is_one_object_and_nothing_else(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "shard-000001.tar").unlink()
    check(folder, workers=1, json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["samples"]) == (False, 5)
    assert found["parts"][0]["problems"] == [
        {"kind": "file", "shard": "shard-000001.tar", "sample": None, "sentence": "it is missing: copy it again"}
    ]
    assert found["parts"][0]["classes"] == {"cat": 2, "dog": 0, "cat (2)": 1}
    stats(folder, workers=1, json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["parts"][0]["samples_per_shard"] == {"min": 1, "median": 2, "max": 2}


def test_any_number_of_workers_finds_the_same(folder: Path):
    (folder / "shard-000002.tar").write_bytes((folder / "shard-000000.tar").read_bytes())
    assert check(folder, workers=1) == check(folder, workers=3)


def test_stats_opens_no_shard(folder: Path, capsys: pytest.CaptureFixture[str]):
    manifest = load_manifest(folder)
    for tar in folder.glob("*.tar"):
        tar.unlink()
    (contents,) = stats(folder, workers=1)
    assert contents.classes == {"cat": 2, "dog": 0, "cat (2)": 3}
    assert (contents.samples, contents.shards, contents.hash) == (5, 3, manifest.hash())
    assert contents.bytes == sum(shard.bytes for shard in manifest.shards)
    said = capsys.readouterr().out
    assert "samples: 5, shards: 3" in said and "1 to 2, median 2; members: cls, png" in said
    (folder / "shard-000001.index.json").unlink()
    with pytest.raises(UserError, match=r"shard-000001.index.json is missing or damaged.*`jepa shards index`"):
        stats(folder, workers=1)


def test_no_manifest_is_one_sentence(tmp_path: Path):
    for verb in (check, stats):
        with pytest.raises(UserError, match=r"has no manifest.json"):
            verb(tmp_path)


def test_of_many_sentences_of_a_kind_the_first_are_printed_and_the_json_has_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for n in range(30):
            for name, data in ((f"{n}.jpg", b"no image"), (f"{n + 100}.png", tiny_png())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    index([str(tmp_path)], workers=1)
    capsys.readouterr()
    report = check(tmp_path, workers=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(report.problems) == len(report.warnings) == 30
    assert [sum(line.startswith(word) for line in lines) for word in ("problem: ", "warning: ")] == [20, 20]
    assert "... and 10 more of this kind (decode)" in lines and "... and 10 more of this kind (tiny)" in lines


def tiny_png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 4)).save(stream, "PNG")
    return stream.getvalue()


def test_of_many_classes_both_ends_are_shown():
    table = format_class_table({f"c{n}": n + 1 for n in range(100)})
    assert table[0] == "100 classes, the largest 100.0 times the smallest"
    assert len(table) == 2 + 21
    assert table[2].split() == ["100", "c99"] and table[-1].split() == ["1", "c0"] and "80 more classes" in table[12]


def test_keys_of_a_million_samples_are_compared_as_quickly_as_in_a_set(tmp_path: Path):
    keys = [[f"s{shard}_{n}" for n in range(50_000)] for shard in range(20)]
    keys[7][123] = keys[3][5]
    keys[9][1] = keys[9][2] = keys[3][6]
    reports = [ShardReport(f"{n}.tar", keys=key_hashes(names)) for n, names in enumerate(keys)]
    for n in (7, 9):
        save_index(ShardIndex(keys=keys[n], members={}, labels=[None] * 50_000), tmp_path / f"{n}.tar")
    began = time.process_time()
    found = list(repeated_keys(str(tmp_path), reports))
    compared = time.process_time() - began
    distinct = len({key for names in keys for key in names})
    assert distinct == 1_000_000 - 3
    assert compared < 3 * (time.process_time() - began - compared)
    assert [(finding.shard, finding.sample) for finding in found] == [("7.tar", "s3_5"), ("9.tar", "s3_6")]
    assert found[1].sentence == "it repeats 2 keys of earlier shards, such as s3_6 of 3.tar"
