"""An index says where each member lies, as tarfile itself does, and what the label is."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.index import ShardIndex, load_index, save_index
from jepa_pipeline.data.indexing import IndexedShard, index_shard
from jepa_pipeline.data.tar_reader import CHUNK, HashingReader, ShardError, iter_members, printable
from jepa_pipeline.data.writer import png_record, write_shards


def pack(members: dict[str, bytes], tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tar_format) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def indexed(members: dict[str, bytes], classes: int | None = None) -> IndexedShard:
    return index_shard(io.BytesIO(pack(members)), "a.tar", classes)


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("seed", range(3))
def test_places_are_those_of_the_library(tar_format: int, seed: int):
    generator = np.random.default_rng(seed)
    sizes = [1, 511, 512, 513, CHUNK - 512, CHUNK, CHUNK + 1, *generator.integers(1, 3 * CHUNK, 20).tolist()]
    members = {f"d/{n}{'x' * (90 * (n % 2))}.jpg": generator.bytes(size) for n, size in enumerate(sizes)}
    data = pack(members, tar_format)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = [(info.offset_data, info.size) for info in archive]
    shard, index, faults, _ = index_shard(io.BytesIO(data), "a.tar")
    assert index.members["jpg"] == expected and not faults
    assert [data[offset : offset + size] for offset, size in expected] == list(members.values())
    assert (shard.samples, shard.bytes, shard.sha256) == (len(sizes), len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("seed", range(3))
def test_a_tar_cut_anywhere_is_no_whole_tar(seed: int):
    generator = np.random.default_rng(seed)
    data = pack({f"{n}.jpg": generator.bytes(int(generator.integers(1, 2000))) for n in range(8)})
    end = len(data.rstrip(b"\0"))
    for cut in generator.integers(0, end, 40).tolist():
        with pytest.raises(ShardError):
            index_shard(io.BytesIO(data[:cut]), "a.tar")


@pytest.mark.parametrize("seed", range(200))
def test_noise_in_a_tar_raises_nothing_else_and_ends(seed: int):
    generator = np.random.default_rng(seed)
    data = bytearray(pack({f"{n}.jpg": b"x" * 300 for n in range(4)} | {"y" * 150 + ".png": b"y"}))
    for place in generator.integers(0, len(data) - 4096, 1 + seed % 20):
        data[place] = generator.integers(256)
    try:
        shard = index_shard(io.BytesIO(bytes(data)), "a.tar").shard
    except ShardError as error:
        assert "\n" not in str(error)
    else:
        assert shard.bytes == len(data)


def test_all_bytes_pass_even_of_a_damaged_tar():
    data = b"no tar" * 100_000
    passing = HashingReader(io.BytesIO(data))
    with pytest.raises(ShardError):
        list(iter_members(passing))
    assert (passing.bytes, passing.sha256.hexdigest()) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    ("members", "label", "by"),
    [
        ({"cls": b"7"}, 7, "cls"),
        ({"cls": b" +7\n"}, 7, "cls"),
        ({"cls": b"7", "json": b'{"label": 3}'}, 7, "cls"),
        ({"cls": b"cat", "json": b'{"label": 3}'}, 3, "json"),
        ({"json": b'{"label": "cat", "cls": 3}'}, 3, "json"),
        ({"cls": b"7.0"}, 7, "cls"),
        ({"cls": b'"7"'}, 7, "cls"),
        ({"cls": b"[7]"}, 7, "cls"),
        ({"cls": b"\xef\xbb\xbf7\r\n"}, 7, "cls"),
        ({"cls": "7\r\n".encode("utf-16")}, 7, "cls"),
        ({"json": b'{"label": 3.0}'}, 3, "json"),
        ({"json": b'{"label": "3"}'}, 3, "json"),
        ({"json": b'{"label": " 3.0 "}'}, 3, "json"),
        ({"json": b'{"label": [3]}'}, 3, "json"),
        ({"json": b'\xef\xbb\xbf{"label": 3}'}, 3, "json"),
        ({"json": b'{"label": null}'}, None, None),
        ({"json": b'{"caption": "3 cats"}'}, None, None),
        ({"json": b"[3]"}, None, None),
        ({"txt": b"3"}, None, None),
    ],
)
def test_labels_are_whole_numbers_in_cls_or_in_json(members: dict[str, bytes], label: int | None, by: str | None):
    result = indexed({"a.jpg": b"x", **{f"a.{extension}": data for extension, data in members.items()}})
    assert (result.index.labels, dict(result.labeled_by), result.defects) == ([label], {by: 1}, [])


@pytest.mark.parametrize(
    "text", [b"cat", b"", b"1_0", b"1.5", b"0x1", "٣".encode(), b"\x80", b"9" * 30, b"[1, 2]", b"[[", b"1e1", b"nan"]
)
def test_what_is_no_number_is_no_label(text: bytes):
    result = indexed({"a.jpg": b"x", "a.cls": text})
    assert result.index.labels == [None]
    assert [(fault.kind, fault.skipped) for fault in result.defects] == [("label", False)]


@pytest.mark.parametrize("value", ["true", "[0, 1]", '"cat"', "3.5", '{"id": 3}', "NaN", "Infinity", "[]"])
def test_a_label_that_is_met_but_not_understood_is_named(value: str):
    result = indexed({"a.jpg": b"x", "a.json": f'{{"label": {value}}}'.encode()})
    assert result.index.labels == [None]
    (defect,) = result.defects
    assert (defect.kind, defect.skipped) == ("label", False) and "is not a whole number" in defect.reason


def test_a_label_under_another_key_is_named():
    result = indexed({"a.jpg": b"x", "a.json": b'{"target": 3}', "b.jpg": b"x", "b.json": b'{"target": 3, "label": 2}'})
    assert result.index.labels == [None, 2]
    assert [defect.reason for defect in result.defects] == ["its json has target, but a label is under label or cls"]
    assert not indexed({"a.jpg": b"x", "a.json": b'{"target": null, "caption": "a class"}'}).defects


@pytest.mark.parametrize("members", [{"cls": b"dog\n"}, {"json": b'{"label": " dog"}'}, {"cls": b"'dog'"}, {"cls": b"1"}])
def test_with_class_names_a_label_may_be_one_of_them(members: dict[str, bytes]):
    stored = {"a.jpg": b"x", **{f"a.{extension}": data for extension, data in members.items()}}
    assert index_shard(io.BytesIO(pack(stored)), "a.tar", ("cat", "dog")).index.labels == [1]
    with pytest.raises(ShardError, match=r"its label 'emu' is not a whole number or the name of a class"):
        index_shard(io.BytesIO(pack({"a.jpg": b"x", "a.cls": b"emu"})), "a.tar", ("cat", "dog"))


def test_labels_in_front_of_all_images_are_named():
    members = {f"{n}.cls": b"1" for n in range(3)} | {f"{n}.jpg": b"x" for n in range(3)}
    with pytest.raises(ShardError, match=r"\(0: its members are not next to each other: pack the shard again, sorted by name\)"):
        indexed(members)


@pytest.mark.parametrize(
    ("name", "chosen"), [("left.jpg", b"L"), ("left", b"L"), ("right", b"RR"), ("png", b"PPP"), ("jpg", b"JJJJ")]
)
def test_a_named_member_is_the_medium_of_a_sample(name: str, chosen: bytes):
    members = {"a.left.jpg": b"L", "a.right.jpg": b"RR", "a.png": b"PPP", "a.jpg": b"JJJJ", "a.cls": b"4", "a.txt": b"x"}
    data = pack(members)
    index = index_shard(io.BytesIO(data), "a.tar", member=name).index
    offset, size = index.media_range(0)
    assert data[offset : offset + size] == chosen and index.labels == [4] and "txt" in index.members
    with pytest.raises(ShardError, match=r"it has no depth, only txt, left.jpg|it has no depth, only"):
        index_shard(io.BytesIO(data), "a.tar", member="depth")


@pytest.mark.parametrize("place", [[-1, 5], [5, -1], [1.5, 2], ["a", 2], [1], [1, 2, 3]])
def test_an_index_has_no_places_that_cannot_be(place: list[object]):
    with pytest.raises(ValidationError):
        ShardIndex.model_validate({"keys": ["a"], "members": {"jpg": [place]}, "labels": [None]})


def test_an_index_is_read_as_it_was_written(tmp_path: Path):
    index = indexed({"a.jpg": b"x", "a.cls": b"1", "b.png": b"y", "\udcff.png": b"z"}).index
    save_index(index, tmp_path / "a.tar")
    assert load_index(tmp_path / "a.tar") == index
    assert [path.name for path in tmp_path.iterdir()] == ["a.index.json"]
    assert index.keys == ["a", "b", r"\udcff"]


def test_a_name_is_printed_on_one_line_and_in_short():
    assert printable("n0144/Ämter (1)") == "n0144/Ämter (1)"
    assert printable("a\nb\x1b[31m") == r"a\nb\x1b[31m"
    assert len(printable("x" * 1_000_000)) == 83


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path):
    records = [png_record(key, Image.new("RGB", (4, 4)), None) for key in ("a", "b", "a")]
    with pytest.raises(UserError, match=r"shard-000000.tar cannot be written: a is skipped: its key is repeated"):
        write_shards(records, tmp_path / "set", classes=None, made={})
