"""`jepa embed` replaces nothing, refuses a file that it could not write before it computes, and gives every file a row."""

import errno
import json
import os
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from jepa_pipeline.commands import embed as command
from jepa_pipeline.commands.build_shards import build
from jepa_pipeline.commands.embed import embed
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.data.manifest import read_manifest
from jepa_pipeline.data.media_files import MediaFiles
from jepa_pipeline.data.shards import SampleError
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.models.weights import EncoderCard, save_encoder
from jepa_pipeline.probes.feature_file import check_file

ENCODER = EncoderConfig(image_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """An encoder folder."""
    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    torch.manual_seed(3)
    origin = {"method": "ijepa", "step": 4, "samples": 32, "config_hash": "c", "data_hash": "d", "version": "0"}
    card = EncoderCard(encoder=ENCODER, mean=(0.5,) * 3, std=(0.2,) * 3, name="tiny", **origin)
    save_encoder(folder, build_encoder(ENCODER), card)
    return folder


@pytest.fixture
def photos(tmp_path):
    """Three images."""
    (tmp_path / "photos").mkdir()
    for name in "abc":
        Image.new("RGB", (20, 20), (ord(name), 20, 200)).save(tmp_path / f"photos/{name}.png")
    return tmp_path / "photos"


def snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("out", "there", "sentence"),
    [
        ("X.npy", "X.npy", "X.npy is there already: delete it, or name another file"),
        ("X.npy", "X.json", "X.npy would replace [^ ]*X.json: delete or move what is there, or name another file"),
        ("X.npy", "X.jsonl", "X.npy would replace [^ ]*X.jsonl: delete or move what is there, or name another file"),
        ("X.parquet", "X.parquet", "X.parquet is there already: delete it"),
        (
            "X.npy",
            "X.npy.partial/mine.txt",
            "X.npy.partial, where unfinished rows are kept, was made by something else: move it away",
        ),
        ("X.npy", "X.npy.partial", "X.npy.partial, where unfinished rows are kept, was made by something else: move it away"),
        ("file/x.npy", "file", "file/x.npy cannot be written, because .*file is not a folder: name a place in a folder"),
        ("file/x/y.parquet", "file", "file/x/y.parquet cannot be written, because .*file is not a folder: name"),
        ("n" * 245 + ".npy", "other", r"cannot be written in .* \(File name too long\): name"),
        ("m" * 300 + "/x.npy", "other", r"cannot be written in .* \(File name too long\): name"),
    ],
)
def test_a_file_that_is_there_is_kept_and_one_that_cannot_be_written_is_refused_at_once(
    tmp_path, monkeypatch, out, there, sentence
):
    """Before the encoder and the data are even looked at."""
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_text("the only copy")
    before = snapshot(tmp_path)
    monkeypatch.setattr(command, "load_frozen", lambda *_: pytest.fail("it was computed"))
    with pytest.raises(UserError, match=sentence) as caught:
        embed("no encoder", "no data", tmp_path / out)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    assert snapshot(tmp_path) == before


def test_all_files_that_are_there_are_named_at_once(tmp_path):
    for suffix in ("json", "jsonl"):
        (tmp_path / f"X.{suffix}").touch()
    with pytest.raises(UserError, match=r"would replace .*X.jsonl and .*X.json: delete or move"):
        check_file(tmp_path / "X.npy")
    (tmp_path / "X.npy").touch()
    with pytest.raises(UserError, match=r"X.npy is there already: delete it, and .*X.jsonl and .*X.json, or name another file"):
        check_file(tmp_path / "X.npy")


def test_a_link_that_leads_nowhere_is_not_replaced(tmp_path):
    (tmp_path / "X.json").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "folder").symlink_to(tmp_path / "elsewhere")
    for out, sentence in (("X.npy", "would replace .*X.json: delete or move"), ("folder/x.npy", "folder is not a folder: name")):
        with pytest.raises(UserError, match=sentence):
            check_file(tmp_path / out)


def test_a_folder_that_nobody_can_make_is_named():
    with pytest.raises(UserError, match=r"/proc/x/a.npy cannot be written in /proc \(.*\): name a place in a folder that you"):
        check_file(Path("/proc/x/a.npy"))


def test_what_can_be_written_leaves_no_trace(tmp_path, monkeypatch):
    (tmp_path / "X.npy.partial").mkdir()
    (tmp_path / "X.npy.partial/.plan.json").write_text("{}")  # of a command that was killed
    (tmp_path / "Y.json").write_text("")  # no file that Y.parquet would write
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    for out in ("X.npy", "new/folders/x.npy", "Y.parquet", str(tmp_path / "other/x.parquet")):
        check_file(Path(out))
    assert sorted(tmp_path.rglob("*")) == before


def spoil(photos):
    """Add files that cannot be opened; return what is said of each."""
    (photos / "annex.png").symlink_to("../.git/annex/objects/SHA256E-s9--1.png")
    (photos / "loop.png").symlink_to("loop.png")
    (photos / "under.png").symlink_to("a.png/b.png")
    os.mkfifo(photos / "pipe.png")
    (photos / "device.png").symlink_to("/dev/zero")
    return {
        "annex.png": r"it is a link to ../.git/annex/objects/SHA256E-s9--1.png: No such .*\): get the file .* or delete the link",
        "loop.png": r"Too many levels of symbolic links\): ",
        "under.png": r"Not a directory\): ",
        "pipe.png": r"it is not a file, but a pipe, a socket or a device\): move it away",
        "device.png": r"it is not a file, but a pipe, a socket or a device\): move it away",
    }


def test_files_that_cannot_be_opened_are_damaged_rows(encoder, photos, tmp_path):
    expected = spoil(photos)
    out = embed(encoder, photos, tmp_path / "x.npy", batch_size=4, workers=0)
    rows = {row["name"]: row for row in map(json.loads, out.with_suffix(".jsonl").read_text().splitlines())}
    assert [*rows] == sorted([*expected, "a.png", "b.png", "c.png"])
    assert {name for name, row in rows.items() if row["error"]} == {*expected}
    for name, sentence in expected.items():
        assert re.search(rf"{name} cannot be used \({sentence}", rows[name]["error"])


def test_files_that_cannot_be_opened_are_left_out_of_shards(photos, tmp_path):
    expected = spoil(photos)
    build(photos, tmp_path / "shards", workers=1)
    assert {skipped.file for skipped in read_manifest(tmp_path / "shards").skipped} == {*expected}


def test_names_that_are_not_utf8_have_rows_of_their_own(encoder, photos, tmp_path):
    taken = (photos / "a.png").read_bytes()
    for name in (b"bad\xff.png", b"bad\xfe.png", rb"bad\udcff.png", b"bad?.png"):
        (Path(os.fsdecode(os.fsencode(photos) + b"/" + name))).write_bytes(taken)
    Path(os.fsdecode(os.fsencode(photos) + b"/no\xff.png")).write_bytes(b"no image")
    for suffix in (".npy", ".parquet"):
        out = embed(encoder, photos, tmp_path / f"x{suffix}", batch_size=4, workers=0)
    rows = list(map(json.loads, (tmp_path / "x.jsonl").read_text().splitlines()))
    names = [row["name"] for row in rows]
    assert out.is_file() and len({*names}) == len(names) == 8
    assert {*names} > {r"bad\udcff.png", r"bad\udcfe.png", r"bad\\udcff.png", "bad?.png"}
    (error,) = [row["error"] for row in rows if row["error"]]
    assert r"no\udcff.png cannot be used" in error


def test_a_backslash_alone_is_no_escape(photos):
    (photos / r"d\e.png").write_bytes(b"")
    assert MediaFiles(photos).keys == ["a.png", "b.png", "c.png", r"d\e.png"]


def fail(monkeypatch, call, number):
    """Let a call fail for b.png alone."""
    original = getattr(Path, call)

    def called(path, *args, **options):
        if path.name == "b.png":
            raise OSError(number, os.strerror(number), str(path))
        return original(path, *args, **options)

    monkeypatch.setattr(Path, call, called)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
@pytest.mark.parametrize("call", ["stat", "read_bytes"])
def test_a_file_without_permission_is_damaged(photos, monkeypatch, number, call):
    fail(monkeypatch, call, number)
    samples = MediaFiles(photos)
    with pytest.raises(SampleError, match=r"b.png cannot be used \((Permission denied|Operation not permitted)\): "):
        samples.read(1, 0)
    assert samples.fingerprint() and samples.read(2, 0).media


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("call", ["stat", "read_bytes"])
def test_a_disk_that_fails_ends_the_command(photos, monkeypatch, number, call):
    """A row without features would then depend on chance."""
    samples = MediaFiles(photos)
    fail(monkeypatch, call, number)
    for use in (lambda: samples.read(1, 0), *((samples.fingerprint, lambda: MediaFiles(photos)) if call == "stat" else ())):
        with pytest.raises(UserError, match=r"b.png cannot be read \(.*\): fix that, then run the same command again") as caught:
            use()
        assert not isinstance(caught.value, SampleError)


def test_a_file_that_vanishes_meanwhile_ends_the_command(photos):
    samples = MediaFiles(photos)
    (photos / "b.png").unlink()
    with pytest.raises(UserError, match=r"b.png cannot be read \(No such file or directory\)") as caught:
        samples.read(1, 0)
    assert not isinstance(caught.value, SampleError) and samples.fingerprint()
