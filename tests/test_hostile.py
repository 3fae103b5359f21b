"""Shards that are damaged, or made to do harm: what meets them says so in one sentence, and nothing else happens."""

import gzip
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streams import load_stream

from jepa_pipeline.cli import main
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.index import index_path
from jepa_pipeline.data.manifest import MANIFEST
from jepa_pipeline.data.shards import SampleError, Shards

Members = dict[str, bytes | tarfile.TarInfo] | list[tuple[str, bytes | tarfile.TarInfo]]
SPOKEN = ("problem: ", "warning: ", "skipped ", "bad.tar: ", "none of ")


def png(seed: int, side: int = 20) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def whole(prefix: str = "s", label: bool = True) -> dict[str, bytes]:
    """Three good samples."""
    images = {f"{prefix}{n}.png": png(sum(prefix.encode()) + n) for n in range(3)}
    return (
        images
        if not label
        else {
            name: data
            for n in range(3)
            for name, data in [(f"{prefix}{n}.png", images[f"{prefix}{n}.png"]), (f"{prefix}{n}.cls", b"%d" % n)]
        }
    )


def pack(path: Path, members: Members) -> Path:
    """A tar of files, and of headers as they are given."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items() if isinstance(members, dict) else members:
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def header(name: str, **values: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(info, key, value)
    return info


def claiming(name: str, size: int) -> bytes:
    """A header that claims a size."""
    return header(name, size=size).tobuf(tarfile.GNU_FORMAT)


def sparse(name: str, real: int) -> bytes:
    """A GNU header of a file of `real` bytes, all of them a hole."""
    buffer = bytearray(header(name, type=tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    buffer[483:495] = b"\x80" + real.to_bytes(11, "big")
    buffer[148:156] = b" " * 8
    buffer[148:156] = b"%06o\0 " % sum(buffer)
    return bytes(buffer)


def bomb() -> bytes:
    """A PNG whose header claims 60,000 by 60,000 pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\1\0IDAT" + b"\0" * 300
    )


def raw(change: Callable[[bytes], bytes], members: Members | None = None) -> Callable[[Path], object]:
    """The bytes of a good tar, changed."""
    return lambda path: path.write_bytes(change(pack(path, members or whole()).read_bytes()))


def members(*extra: tuple[str, bytes | tarfile.TarInfo], start: dict[str, bytes] | None = None) -> Callable[[Path], object]:
    return lambda path: pack(path, [*(whole() if start is None else start).items(), *extra])


def member_start(data: bytes, name: str) -> int:
    return data.index(name.encode())


@pytest.fixture
def jepa(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str], str]]:
    """The command line: exit code, what it says of shards, standard output."""
    monkeypatch.setattr("jepa_pipeline.cli.was_distributed", lambda: False)  # as other tests in this process may have been

    def run(*arguments: object) -> tuple[int, list[str], str]:
        monkeypatch.setattr(sys, "argv", ["jepa", *map(str, arguments), "--workers=1"])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        lines = [line.strip() for line in (out + err).splitlines()]
        code = left.value.code
        return code if isinstance(code, int) else 0, [line for line in lines if code == 2 or line.startswith(SPOKEN)], out

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One good shard; a bad one goes beside it."""
    (tmp_path / "set").mkdir()
    pack(tmp_path / "set" / "good.tar", whole("g"))
    (tmp_path / "names").write_text("cat\ndog\nfox\n")
    return tmp_path / "set"


TARS = {
    "truncated in a member": (raw(lambda data: data[:2600]), "it is truncated after its member s0.cls"),
    "truncated in a header": (raw(lambda data: data[:2600], {"a.png": b"x" * 1600}), "it is truncated after its member a.png"),
    "no end": (raw(lambda data: data[: data.rindex(b"s2.cls") + 1024]), "it ends without the end mark of a tar, so members may be missing after its member s2.cls"),
    "a flipped header": (raw(lambda data: data.replace(b"s1.png", b"s9.png")), "a header in it is damaged after its member s0.cls"),
    "no tar": (lambda path: path.write_bytes(b"<html>404</html>" * 99), "it is not a tar"),
    "gzip": (raw(gzip.compress), "it is compressed with gzip: unpack it, as samples are read from the middle of a tar"),
    "empty file": (raw(lambda data: b""), "it is empty"),
    "empty tar": (raw(lambda data: b"\0" * 10240), "it holds no sample that can be used"),
    "no image at all": (lambda path: pack(path, {"a.txt": b"x"}), "it holds no sample that can be used (a: it has no jpg, jpeg, png, webp, tif, tiff, npy, only txt)"),
    "an exabyte": (raw(lambda data: data[: data.rindex(b"s2.cls")] + claiming("huge.bin", 1 << 60)), "it is truncated after its member huge.bin"),
    "less than nothing": (raw(lambda data: data[: data.rindex(b"s2.cls")] + claiming("less.bin", -1024) + b"\0" * 1024), "a header in it is damaged after its member less.bin"),
    "a link to nowhere": (lambda path: path.symlink_to("nowhere"), "it cannot be read (No such file or directory)"),
    "a folder": (lambda path: path.mkdir(), "it cannot be read (Is a directory)"),
    "a pipe": (os.mkfifo, "it cannot be read (it is a pipe)"),
    "a kind of member for every sample": (
        lambda path: pack(path, {f"{n}.{ext}": b"x" for n in range(80) for ext in ("png", f"kind{n:02d}")}),
        "its members have 81 extensions, such as kind00, more than 64: an extension begins at the first dot of a name, so rename its members to have one dot",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TARS)
def test_a_tar_that_is_none_is_left_out_by_index(kind: str, folder: Path, jepa):
    build, sentence = TARS[kind]
    build(folder / "bad.tar")
    code, said, _ = jepa("shards", "index", folder)
    assert (code, said) == (1, [f"skipped bad.tar: {sentence}"])
    assert Shards(folder).counts == [3]
    assert json.loads((folder / MANIFEST).read_text())["skipped"] == [{"file": "bad.tar", "reason": sentence}]
    assert jepa("shards", "check", folder)[:2] == (0, [])


ONE_DOT = ": an extension begins at the first dot of a name, so rename its members to have one dot, or index with --member v2.png"
LEADS_OUT = "its name leads out of the folder it would be unpacked to: rename it"
LINKED = "is a link or a device and not followed"
SAMPLES = {
    "no image": (members(("t.cls", b"0"), ("t.txt", b"x")), 3, "t is skipped: it has no jpg, jpeg, png, webp, tif, tiff, npy, only cls, txt"),
    "two dots": (members(("photo.v2.png", png(9)), ("photo.cls", b"0")), 3, f"photo is skipped: it has no jpg, jpeg, png, webp, tif, tiff, npy, only v2.png, cls{ONE_DOT}"),
    "an image of no bytes": (members(("t.png", b""), ("t.cls", b"0")), 3, "t is skipped: its image has 0 bytes, but an image has 1 to 1073741824"),
    "a key twice": (members(("t.png", png(9)), ("t.cls", b"1"), ("s0.png", png(8)), ("s0.cls", b"1")), 4, "s0 is skipped: its key is repeated in this shard, the first sample counts"),
    "a member twice": (members(("s2.PNG", b"other")), 3, "s2.png: its name is repeated, the first member counts"),
    "members apart": (members(("t.png", png(9)), ("t.cls", b"0"), ("s0.json", b"{}")), 4, "s0: its members are not next to each other, so that its json is not read: pack the shard again, sorted by name"),
    "..": (members(("../escape.png", png(9)), ("../escape.cls", b"0")), 3, f"../escape is skipped: {LEADS_OUT}"),
    "a/../..": (members(("a/../../escape.png", png(9))), 3, f"a/../../escape is skipped: {LEADS_OUT}"),
    "absolute": (members(("/abs.png", png(9)), ("/abs.cls", b"0")), 3, f"/abs is skipped: {LEADS_OUT}"),
    "a link": (members(("", header("t.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"))), 3, f"t.png: this member {LINKED}"),
    "a device": (members(("", header("t.png", type=tarfile.CHRTYPE)), ("", header("u.png", type=tarfile.FIFOTYPE))), 3, f"t.png: this member and 1 more {LINKED}"),
    "a hole of a terabyte": (raw(lambda data: sparse("t.png", 1 << 40) + data), 3, "t is skipped: its image is stored with holes (a sparse file): pack the shard again without them"),
    "a name that rules the terminal": (members(("\x1b[2J\n.cls", b"0")), 3, r"\x1b[2J\n is skipped: it has no jpg, jpeg, png, webp, tif, tiff, npy, only cls"),
    "a name that is no text": (members(("\udcff.cls", b"0")), 3, r"\udcff is skipped: it has no jpg, jpeg, png, webp, tif, tiff, npy, only cls"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_sample_that_cannot_be_used_is_left_out_by_index_and_remarked_on_by_check(kind: str, folder: Path, jepa):
    build, kept, sentence = SAMPLES[kind]
    build(folder / "bad.tar")
    assert jepa("shards", "index", folder)[:2] == (0, [f"bad.tar: {sentence}"])
    assert Shards(folder).counts == [kept, 3]
    skipped = [entry["reason"] for entry in json.loads((folder / MANIFEST).read_text())["skipped"]]
    assert skipped == ([sentence.partition(" is skipped: ")[2]] if " is skipped: " in sentence else [])
    assert jepa("shards", "check", folder)[:2] == (0, [f"warning: bad.tar: {sentence}"])


LABELS = {
    "a word": ({"t.cls": b"cow"}, "its label 'cow' is not a whole number or the name of a class"),
    "beyond all reason": ({"t.cls": b"99999999999999"}, "its label is 99999999999999, but labels go from 0 to 2"),
    "negative": ({"t.cls": b"-1"}, "its label is -1, but labels go from 0 to 2"),
    "none": ({}, "it has no label, neither in a .cls nor in a .json"),
    "a million digits": ({"t.cls": b"1" * 999_999}, f"its label '{'1' * 80}...' is not a whole number or the name of a class"),
    "a huge JSON": (
        {"t.json": b'{"label": 0}' + b" " * 1_000_000},
        "its json has 1000012 bytes, but labels are read from up to 1000000",
    ),
    "a deep JSON": ({"t.json": b"[" * 500_000}, "its json is not readable JSON"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_a_sample_without_a_label_is_left_out_where_classes_are_named(kind: str, folder: Path, jepa):
    extra, sentence = LABELS[kind]
    pack(folder / "bad.tar", {**whole(), "t.png": png(9), **extra})
    code = 1 if sentence.endswith("or the name of a class") else 0  # a word may be a class, which would then be lost
    assert jepa("shards", "index", folder, "--classes", folder.parent / "names")[:2] == (
        code,
        [f"bad.tar: t is skipped: {sentence}"],
    )
    assert Shards(folder).counts == [3, 3]
    assert jepa("shards", "check", folder)[:2] == (0, [f"warning: bad.tar: t is skipped: {sentence}"])


def test_a_label_beyond_all_reason_does_not_fill_the_memory_with_classes(folder: Path, jepa):
    pack(folder / "bad.tar", {**whole(), "t.png": png(9), "t.cls": b"99999999999999"})
    sentence = "bad.tar: t: its label is 99999999999999, but labels go from 0 to 999999"
    assert jepa("shards", "index", folder)[:2] == (1, [sentence]), "all labels are lost"
    assert Shards(folder).manifest.classes is None
    assert jepa("shards", "check", folder)[:2] == (0, [f"warning: {sentence}"])
    assert jepa("shards", "index", folder, "--labels", "none")[:2] == (0, [sentence]), "and here nobody wanted them"


IMAGES = {
    "cut": (png(9)[:-300], re.escape("image file is truncated")),
    "text": (b"<html>not found</html>", "it is not a JPEG, PNG or WebP image"),
    "another format": (b"GIF89a" + b"\0" * 64, "it is not a JPEG, PNG or WebP image"),
    "a bomb": (bomb(), r"Image size \(3600000000 pixels\) exceeds limit of \d+ pixels, could be decompression bomb DOS attack."),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_that_does_not_decode_is_a_problem(kind: str, folder: Path, jepa):
    data, reason = IMAGES[kind]
    pack(folder / "bad.tar", {**whole(), "t.png": data, "t.cls": b"0"})
    assert jepa("shards", "index", folder)[:2] == (0, [])
    code, said, _ = jepa("shards", "check", folder)
    assert code == 1 and len(said) == 1
    assert re.fullmatch(rf"problem: bad.tar: sample t does not decode \({reason}.*\)", said[0])


def edit(file: str, change: Callable[[dict], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        values = json.loads((folder / file).read_text())
        change(values)
        (folder / file).write_text(json.dumps(values))

    return damage


def rewrite(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / "bad.tar").write_bytes(change((folder / "bad.tar").read_bytes()))


INDEX = (
    "bad.index.json is missing or damaged, and bad.tar cannot be read without it: copy it again or make it with `jepa shards index`"
)
LATER = {
    "truncated": (rewrite(lambda data: data[:2600]), "it is truncated after its member s0.cls; 0 of its 3 samples are complete"),
    "longer": (rewrite(lambda data: data + b"\0" * 512), "it has 10752 bytes, the manifest says 10240"),
    "a byte flipped": (rewrite(lambda data: data[:-1] + b"\1"), "its SHA-256 is [0-9a-f]{12}..., the manifest says [0-9a-f]{12}..."),
    "gone": (lambda folder: (folder / "bad.tar").unlink(), "it is missing: copy it again"),
    "index gone": (lambda folder: (folder / "bad.index.json").unlink(), f".*{INDEX}"),
    "index no JSON": (lambda folder: (folder / "bad.index.json").write_bytes(b"\x80\x04pickle"), f".*{INDEX}"),
    "index with a negative offset": (edit("bad.index.json", lambda index: index["members"]["png"].__setitem__(1, [-5, 100])), f".*{INDEX}"),
    "index beyond the tar": (edit("bad.index.json", lambda index: index["members"]["png"].__setitem__(1, [512, 1 << 50])), "its index places sample s1 beyond the end of the tar"),
    "index with two places swapped": (edit("bad.index.json", lambda index: index["members"]["png"].reverse()), "the index beside it belongs to another tar: make it with `jepa shards index`"),
    "index too short": (edit("bad.index.json", lambda index: index.update(keys=[], labels=[], members={})), "its index lists 0 samples, the manifest says 3"),
    "labels without classes": (edit(MANIFEST, lambda manifest: manifest.update(classes=None)), "its index has labels, but the manifest has no classes"),
    "a class too few": (edit(MANIFEST, lambda manifest: manifest.update(classes=["cat", "dog"])), "sample s2 cannot be used: its label is 2, but labels go from 0 to 1"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LATER)
def test_damage_that_came_later_is_found_by_check(kind: str, folder: Path, jepa):
    pack(folder / "bad.tar", whole())
    assert jepa("shards", "index", folder)[:2] == (0, [])
    LATER[kind][0](folder)
    code, said, _ = jepa("shards", "check", folder)
    said = [line for line in said if "bad.tar" in line]
    assert code == 1 and len(said) == 1
    assert re.fullmatch(f"problem: bad.tar: {LATER[kind][1]}", said[0])


def test_a_key_in_two_shards_is_remarked_on(folder: Path, jepa):
    pack(folder / "bad.tar", whole("g") | whole("h"))
    jepa("shards", "index", folder)
    sentence = "warning: good.tar: it repeats 3 keys of earlier shards, such as g0 of bad.tar"
    assert jepa("shards", "check", folder)[:2] == (0, [sentence])


def test_a_tiny_image_is_remarked_on(folder: Path, jepa):
    pack(folder / "bad.tar", {**whole(), "t.png": png(9, side=15), "t.cls": b"0"})
    jepa("shards", "index", folder)
    assert jepa("shards", "check", folder)[:2] == (0, ["warning: bad.tar: sample t has only 15x15 pixels"])


MANIFESTS = {
    "a file elsewhere": (lambda values: values["shards"][0].update(file="../x.tar"), "is damaged at shards.0.file"),
    "fewer samples than none": (lambda values: values["shards"][0].update(samples=-3), "is damaged at shards.0.samples"),
    "a size of less than nothing": (lambda values: values["shards"][0].update(bytes=-1), "is damaged at shards.0.bytes"),
    "a program for a location": (lambda values: values.update(location="pipe:touch ran"), "runs a program"),
    "a scheme nobody knows": (lambda values: values.update(location="rsync://host/"), "has the scheme rsync"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MANIFESTS)
@pytest.mark.parametrize("verb", ["check", "stats"])
def test_a_hostile_manifest_is_refused(kind: str, verb: str, folder: Path, jepa, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    jepa("shards", "index", folder)
    edit(MANIFEST, MANIFESTS[kind][0])(folder)
    code, said, _ = jepa("shards", verb, folder)
    assert code == 2 and len(said) == 1 and MANIFESTS[kind][1] in said[0]
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("place", ["pipe:touch ran", "pipe:touch ran;.tar", "shell://touch ran.tar", "file::pipe://x.tar"])
def test_nothing_that_is_named_is_run(place: str, tmp_path: Path, jepa, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for verb in ("index", "check"):
        code, said, _ = jepa("shards", verb, place)
        assert code == 2 and len(said) == 1
    assert not list(tmp_path.iterdir())


class Payload:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_no_pickle_is_loaded_by_any_reader(folder: Path, tiny, jepa):
    payload, ran = pickle.dumps(Payload(folder / "ran")), folder / "ran"
    kinds = ("pyd", "pkl", "pickle", "pth", "npy", "json")
    extra = {f"t.{kind}": payload for kind in kinds}
    pack(folder / "bad.tar", {**whole(label=False), "t.png": png(9), **extra})
    assert jepa("shards", "index", folder, "--labels", "none")[:2] == (0, ["bad.tar: t: its json is not readable JSON"])
    assert jepa("shards", "check", folder)[0] == 0
    jepa("shards", "stats", folder)
    assert Shards(folder).read(0, 3).media == png(9)
    next(iter(load_stream(tiny(f"data.train={folder}"), [])))
    assert not ran.exists()
    pickle.loads(payload)
    assert ran.exists(), "the payload works"


def test_an_image_that_is_a_pickle_is_not_loaded_either(folder: Path, jepa):
    pack(
        folder / "bad.tar",
        {**whole(), "t.jpg": pickle.dumps(Payload(folder / "ran")), "t.cls": pickle.dumps(Payload(folder / "ran"))},
    )
    jepa("shards", "index", folder)
    assert jepa("shards", "check", folder)[0] == 1
    assert not (folder / "ran").exists()


def test_a_reader_believes_no_index(folder: Path, jepa):
    """Training reads by the index alone, without a check before it."""
    jepa("shards", "index", folder)
    edit("good.index.json", lambda index: index["members"]["png"].__setitem__(1, [512, 1 << 50]))(folder)
    with pytest.raises((SampleError, UserError)):
        Shards(folder).read(0, 1)
    edit("good.index.json", lambda index: index["members"]["png"].__setitem__(1, [-512, 100]))(folder)
    with pytest.raises((SampleError, UserError)):
        Shards(folder).read(0, 1)


def test_the_command_itself_shows_no_traceback(folder: Path):
    TARS["an exabyte"][0](folder / "bad.tar")
    command = [sys.executable, "-c", "from jepa_pipeline.cli import main; main()", "shards"]
    indexed = subprocess.run([*command, "index", str(folder)], capture_output=True, text=True, timeout=600)
    assert indexed.returncode == 1 and "Traceback" not in indexed.stderr and "it is truncated" in indexed.stderr
    (folder / "good.tar").write_bytes(b"x" * 512)
    checked = subprocess.run([*command, "check", "--json", str(folder)], capture_output=True, text=True, timeout=600)
    assert checked.returncode == 1 and "Traceback" not in checked.stderr
    (part,) = json.loads(checked.stdout)["parts"]
    assert [problem["sentence"] for problem in part["problems"]] == ["it is not a tar; 0 of its 3 samples are complete"]
    assert index_path(folder / "good.tar").exists()
