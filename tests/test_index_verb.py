"""`jepa shards index`: tars of any writer are as good as our own, wherever they lie."""

import functools
import http.server
import io
import json
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image
from tars import forget_hashes, pack

from jepa_pipeline.commands.check_shards import check
from jepa_pipeline.commands.index_shards import index
from jepa_pipeline.config.data import CacheConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.index import load_index, save_index
from jepa_pipeline.data.manifest import MANIFEST, load_manifest, save_manifest
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.data.writer import png_record, write_shards


def picture(seed: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (18, 20, 3), np.uint8)).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards, of all four extensions in any case and members in any order; the second labels in JSON."""
    pack(
        tmp_path / "set/train-0.tar",
        {"a/0.cls": b" 1\n", "a/0.JPG": picture(0, "JPEG"), "a/1.jpeg": picture(1, "JPEG"), "a/1.cls": b"0"},
    )
    members = {"2.json": b'{"label": 2}', "2.webp": picture(2, "WEBP"), "3.png": picture(3), "3.txt": b"x", "3.json": b'{"cls": 0}'}
    pack(tmp_path / "set/train-1.tar", members)
    return tmp_path / "set"


def test_foreign_shards_are_read_like_our_own(folder: Path):
    manifest, left_out = index([str(folder)], workers=2)
    assert (manifest.samples, manifest.classes, left_out) == (4, ("0", "1", "2"), [])
    assert manifest.extensions == ("cls", "jpeg", "jpg", "json", "png", "txt", "webp")
    assert manifest.made == {"by": "jepa shards index", "labels": "cls and json", "class_names": None}
    assert manifest.location is None and manifest == load_manifest(folder)
    read = [Shards(folder).read(shard, member) for shard in range(2) for member in range(2)]
    assert [(sample.key, sample.label) for sample in read] == [("a/0", 1), ("a/1", 0), ("2", 2), ("3", 0)]
    assert [sample.media for sample in read] == [picture(0, "JPEG"), picture(1, "JPEG"), picture(2, "WEBP"), picture(3)]
    report = check(folder, workers=2)
    assert report.problems == report.warnings == []
    assert report.parts[0].classes == {"0": 2, "1": 1, "2": 1}


def test_samples_are_those_of_webdataset(folder: Path):
    pack(
        folder / "train-2.tar", {"./x.y/__deep__/5.png": picture(5), "./x.y/.hidden": b"", "README": b"", "__meta__/m.json": b"{}"}
    )
    index([str(folder)], workers=1)
    theirs = [
        sample["__key__"]
        for sample in webdataset.WebDataset([str(tar) for tar in sorted(folder.glob("*.tar"))], shardshuffle=False)
    ]
    ours = [key for tar in sorted(folder.glob("*.tar")) for key in load_index(tar).keys]
    assert ours == theirs


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_dialect_of_tar_is_read(tmp_path: Path, tar_format: int):
    long = "d" * 60 + "/" + ("n" * 40 if tar_format == tarfile.USTAR_FORMAT else "n" * 200)
    pack(tmp_path / "a.tar", {f"{long}.png": picture(0), "b.png": picture(1)}, tar_format)
    index([str(tmp_path)], workers=1)
    assert [Shards(tmp_path).read(0, n)[:2] for n in range(2)] == [(long, picture(0)), ("b", picture(1))]


def test_the_tar_of_the_command_line_is_read(tmp_path: Path):
    for n in range(3):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"{n}.png").write_bytes(picture(n))
        (tmp_path / "images" / f"{n}.cls").write_text(f"{n}\n")
    subprocess.run(["tar", "--sort=name", "-cf", tmp_path / "a.tar", "-C", tmp_path / "images", "."], check=True)
    manifest, _ = index([str(tmp_path / "a.tar")], workers=1)
    assert (manifest.samples, manifest.classes) == (3, ("0", "1", "2"))
    assert Shards(tmp_path).read(0, 2)[:2] == ("./2", picture(2))


def joined(folder: Path, tar_format: int, padded: bool) -> bytes:
    """Three tars of two samples each, one behind the other, as cat joins them."""
    whole = b""
    for part in range(3):
        members = {
            f"{part}{n}{'-long' * 40}.{kind}": picture(int(n)) if kind == "png" else b"%d" % part
            for n in "01"
            for kind in ("png", "cls")
        }
        data = pack(folder / "part", members, tar_format).read_bytes()
        whole += data if padded else data.rstrip(b"\0").ljust(-(-len(data.rstrip(b"\0")) // 512) * 512, b"\0") + bytes(1024)
    return whole


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("padded", [True, False])
def test_samples_behind_an_end_mark_are_read_and_that_is_said(
    tmp_path: Path, tar_format: int, padded: bool, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.tar").write_bytes(joined(tmp_path, tar_format, padded))
    manifest, _ = index([str(tmp_path / "set")], workers=1)
    assert (manifest.samples, manifest.classes) == (6, ("0", "1", "2"))
    assert (
        capsys.readouterr().err.count("...: this member and those after it are behind an end mark, as in tars joined with cat") == 1
    )
    for number in range(6):
        sample = Shards(tmp_path / "set").read(0, number)
        assert (sample.key[:2], sample.media, sample.label) == (f"{number // 2}{number % 2}", picture(number % 2), number // 2)
    report = check(tmp_path / "set", workers=1)
    assert report.ok and ["behind an end mark" in warning for warning in report.warnings] == [True]


def test_an_index_from_before_what_lies_behind_the_end_mark_was_read_is_to_be_made_again(tmp_path: Path):
    tar = pack(tmp_path / "a.tar", {"0.png": picture(0)})
    index([str(tmp_path)], workers=1)
    earlier = load_index(tar)
    tar.write_bytes(tar.read_bytes() + pack(tmp_path / "part", {"1.png": picture(1)}).read_bytes())
    manifest = index([str(tmp_path)], workers=1).manifest
    save_index(earlier, tar)
    save_manifest(manifest.model_copy(update={"samples": 1, "shards": (replace(manifest.shards[0], samples=1),)}), tmp_path)
    forget_hashes(tmp_path)
    assert Shards(tmp_path).read(0, 0).media == picture(0), "it is as good as before"
    report = check(tmp_path, workers=1)
    assert "the index beside it belongs to another tar: make it with `jepa shards index`" in report.problems[0]


def test_what_is_behind_an_end_mark_and_no_tar_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tar = pack(tmp_path / "a.tar", {"0.png": picture(0)})
    whole = tar.read_bytes()
    tar.write_bytes(whole + bytes(512) + b"<html>" * 100)
    index([str(tmp_path)], workers=1)
    assert "a.tar: its end mark: the 600 bytes behind it are no tar and are not read" in capsys.readouterr().err
    assert "600 bytes" in check(tmp_path, workers=1).warnings[0]
    tar.write_bytes(whole[:-100] + b"x" * 100)  # in the record of the end mark, where POSIX allows anything
    index([str(tmp_path)], workers=1)
    assert "end mark" not in capsys.readouterr().err


def test_members_without_an_extension_are_named_and_hidden_ones_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pack(
        tmp_path / "a.tar", {"0.png": picture(0), "n01440764/img1": picture(1), "README": b"x", "._0.png": b"x", ".DS_Store": b"x"}
    )
    index([str(tmp_path)], workers=1)
    said = capsys.readouterr().err
    assert "a.tar: n01440764/img1: this member and 1 more has no extension and is not read" in said and "DS_Store" not in said
    assert "has no extension" in check(tmp_path, workers=1).warnings[0]
    pack(tmp_path / "only/a.tar", {"img1": picture(0)})
    with pytest.raises(UserError, match=r"holds no sample that can be used \(img1: this member has no extension"):
        index([str(tmp_path / "only")], workers=1)


def test_of_joined_tars_a_truncated_one_makes_the_whole_unusable(tmp_path: Path):
    whole = joined(tmp_path, tarfile.PAX_FORMAT, padded=True)
    (tmp_path / "a.tar").write_bytes(whole[: whole.rindex(b"21-long") + 700])
    with pytest.raises(UserError, match="it is truncated after its member"):
        index([str(tmp_path)], workers=1)


def test_with_out_nothing_is_written_beside_the_tars(folder: Path, tmp_path: Path):
    before = sorted(folder.iterdir())
    manifest, _ = index([str(folder / "*.tar")], out=tmp_path / "index", workers=1)
    assert sorted(folder.iterdir()) == before
    assert manifest.location == str(folder)
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [MANIFEST, "train-0.index.json", "train-1.index.json"]
    assert Shards(tmp_path / "index").read(1, 1).media == picture(3)
    assert check(tmp_path / "index", workers=1).ok


def test_class_names_come_from_a_file(folder: Path, tmp_path: Path):
    (tmp_path / "names").write_text("cat\ndog\nfox\n")
    assert index([str(folder)], classes=tmp_path / "names", workers=1).manifest.classes == ("cat", "dog", "fox")
    (tmp_path / "names").write_text("cat\n\nfox\n")
    with pytest.raises(UserError, match="has an empty line"):
        index([str(folder)], classes=tmp_path / "names")
    with pytest.raises(UserError, match="cannot be read as text"):
        index([str(folder)], classes=tmp_path / "nowhere")


def test_labels_of_only_some_samples_are_none_unless_classes_are_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pack(folder / "train-2.tar", {"5.png": picture(5), "5.json": b'{"label": "cow", "cls": true}'})
    indexing = index([str(folder)], workers=1)
    manifest, lost = indexing.manifest, indexing.lost or ""
    assert (manifest.classes, manifest.samples) == (None, 5)
    assert lost in capsys.readouterr().err
    assert "only 4 samples have a label: --classes FILE would skip the others" in lost and "its label 'cow' is not a" in lost
    assert {Shards(folder).read(shard, 0).label for shard in range(3)} == {None}
    assert check(folder, workers=1).ok
    (tmp_path / "names").write_text("cat\ndog\nfox")
    manifest, left_out = index([str(folder)], classes=tmp_path / "names", workers=1)
    assert (len(manifest.classes), manifest.samples, [tar.file for tar in left_out]) == (3, 4, ["train-2.tar"])


def test_without_labels_there_are_no_classes(tmp_path: Path):
    pack(tmp_path / "a.tar", {"a.png": picture(0), "a.json": b"[1]", "b.png": picture(1)})
    assert index([str(tmp_path)], workers=1).manifest.classes is None
    assert check(tmp_path, workers=1).ok


def test_indexing_again_replaces_its_own_manifest_and_no_other(folder: Path, tmp_path: Path):
    first = index([str(folder)], workers=1).manifest
    assert index([str(folder)], workers=2).manifest == first
    pack(folder / "train-2.tar", {"9.png": picture(9), "9.cls": b"0"})
    assert index([str(folder)], workers=1).manifest.samples == 5
    built = tmp_path / "built"
    write_shards([png_record("a", Image.new("RGB", (20, 20)), None)], built, classes=None, made={"source": "x"})
    before = {path.name: path.read_bytes() for path in built.iterdir()}
    with pytest.raises(UserError, match=r"was not made by `jepa shards index`, so it is not replaced"):
        index([str(built)])
    assert {path.name: path.read_bytes() for path in built.iterdir()} == before
    out = index([str(built)], out=tmp_path / "out", workers=1).manifest
    assert out.hash() == load_manifest(built).hash(), "the name of the data is its content"


@pytest.mark.parametrize(
    ("tars", "sentence"),
    [
        (["nowhere"], "names no .tar file"),
        (["{}/empty"], "names no .tar file"),
        (["{}/set", "{}/other"], "the tars are in .*: index each separately"),
        (["{}/names.txt"], "names end in .tar"),
        (["https://host/a-{0..1}.tar"], "is a URL: give a folder for the manifest and the indexes with --out"),
        (["https://host/a-{0..1.tar"], "cannot be expanded"),
        (["https://host/a/", "https://host/b.tar"], "the tars are in|names end in .tar"),
        (["ftp://host/a.tar"], "has the scheme ftp"),
    ],
)
def test_a_wrong_argument_is_one_sentence_and_leaves_nothing(folder: Path, tars: list[str], sentence: str):
    root = folder.parent
    (root / "empty").mkdir()
    (root / "names.txt").write_text("")
    pack(root / "other/a.tar", {"a.png": picture(0)})
    before = sorted(root.rglob("*"))
    with pytest.raises(UserError, match=sentence) as caught:
        index([tar.replace("{}", str(root)) for tar in tars], workers=1)
    assert "\n" not in str(caught.value)
    assert sorted(root.rglob("*")) == before


def test_if_no_tar_can_be_used_nothing_is_written(tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UserError, match=r"none of 1 tars could be used \(a.tar: it is not a tar\)"):
        index([str(tmp_path)], out=tmp_path / "out", workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{host.server_port}"
        host.shutdown()


def test_shards_behind_a_url_are_indexed_from_one_download_each(folder: Path, server: str, tmp_path: Path):
    manifest, left_out = index([f"{server}/train-{{0..2}}.tar"], out=tmp_path / "index", workers=1)
    assert manifest.location == server or manifest.location == f"{server}/"
    assert ([tar.file for tar in left_out] == ["train-2.tar"] and "404" in left_out[0].reason) or "not there" in left_out[0].reason
    assert manifest.shards == index([str(folder)], workers=1).manifest.shards
    assert load_index(tmp_path / "index/train-1.tar") == load_index(folder / "train-1.tar")
    assert check(tmp_path / "index", workers=1).ok
    tar = folder / "train-0.tar"
    more = pack(folder.parent / "more", {"7.png": picture(7), "7.cls": b"2"}).read_bytes()
    (folder / "train-2.tar").write_bytes(tar.read_bytes() + more)
    assert index([f"{server}/train-2.tar"], out=tmp_path / "joined", workers=1).manifest.samples == 3
    assert Shards(f"{tmp_path}/joined", cache=CacheConfig(folder=tmp_path / "cache")).read(0, 2).media == picture(7)
    tar.write_bytes(tar.read_bytes()[:-1] + b"\1")
    assert ["its SHA-256 is" in problem for problem in check(tmp_path / "index", workers=1).problems] == [True]


def test_the_manifest_names_what_was_left_out(folder: Path):
    (folder / "train-2.tar").write_bytes(b"")
    pack(folder / "train-3.tar", {"5.png": picture(5), "5.cls": b"0", "6.cls": b"0"})
    index([str(folder)], workers=1)
    skipped = json.loads((folder / MANIFEST).read_text())["skipped"]
    assert [entry["file"] for entry in skipped] == ["train-2.tar", "train-3.tar/6"]


def test_a_part_of_a_folder_does_not_push_out_the_rest(folder: Path):
    """Who names the one tar that was added would else lose all others."""
    whole = index([str(folder)], workers=1).manifest
    with pytest.raises(
        UserError, match=r"manifest.json also lists train-0.tar, in all 1 tars that you did not name: name the folder"
    ):
        index([str(folder / "train-1.tar")], workers=1)
    assert load_manifest(folder) == whole
    (folder / "train-0.tar").unlink()
    assert len(index([str(folder)], workers=1).manifest.shards) == 1
