"""`jepa shards build` and `index`: labels of lists, classes that are lost, and members that are chosen."""

import io
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tars import pack

from jepa_pipeline.cli import main
from jepa_pipeline.commands.build_shards import build
from jepa_pipeline.commands.check_shards import check
from jepa_pipeline.commands.index_shards import index
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.index import load_index
from jepa_pipeline.data.manifest import load_manifest
from jepa_pipeline.data.shards import Sample, Shards

Said = tuple[int, str]


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (18, 20, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def lay(root: Path, names: list[str]) -> Path:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(seed))
    return root


def samples(folder: Path) -> list[Sample]:
    shards = Shards(folder)
    return [shards.read(*place) for place in shards.locate(range(shards.manifest.samples))]


@pytest.fixture
def jepa(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """The command line: exit code and all it prints."""
    monkeypatch.setattr("jepa_pipeline.cli.was_distributed", lambda: False)

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["jepa", "shards", *map(str, arguments), "--workers=1"])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return (left.value.code if isinstance(left.value.code, int) else 0), out + err

    return run


def test_parts_are_refused_with_exit_code_2_and_build_by_themselves(tmp_path: Path, jepa):
    root = lay(tmp_path / "in", [f"{part}/{name}/{n}.png" for part in ("train", "val") for name in ("a", "b") for n in range(2)])
    code, said = jepa("build", root, tmp_path / "out")
    assert code == 2 and "are parts of a data set and not classes" in said and not (tmp_path / "out").exists()
    for part, target in (("train", "train"), ("val", "test")):
        assert jepa("build", root / part, tmp_path / "out" / target)[0] == 0
    assert load_manifest(tmp_path / "out/train").classes == load_manifest(tmp_path / "out/test").classes == ("a", "b")
    code, said = jepa("build", root, tmp_path / "all", "--labels", "none")
    assert code == 0 and load_manifest(tmp_path / "all").samples == 8 and "no classes, because labels are not wanted" in said


def test_names_of_classes_that_nothing_uses_are_refused_or_named(tmp_path: Path, jepa):
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\nfox\n")
    flat = lay(tmp_path / "flat", ["0.png", "1.png"])
    code, said = jepa("build", flat, tmp_path / "out", "--classes", names)
    assert code == 2 and "--classes names 3 classes, but" in said and "add --labels FILE, or leave --classes out" in said
    folders = lay(tmp_path / "folders", ["cat/0.png", "dog/0.png"])
    code, said = jepa("build", folders, tmp_path / "out", "--classes", names)
    assert code == 0 and "no folder has the name of 1 class (fox) that --classes names" in said


def test_every_part_is_given_a_folder_of_its_own_and_the_list(tmp_path: Path, jepa):
    parts = lay(
        tmp_path / "parts", [f"{part}/{name}/{n}.png" for part in ("train", "train_extra", "val") for name in "ab" for n in (1, 2)]
    )
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "path,label\n"
        + "".join(f"{part}/{name}/{n}.png,{name}\n" for part in ("train", "train_extra", "val") for name in "ab" for n in (1, 2))
    )
    _, said = jepa("build", parts, tmp_path / "out", "--labels", labels)
    for part, target in (("train", "train"), ("train_extra", "train_extra"), ("val", "test")):
        assert f"`jepa shards build {parts / part} OUT/{target} --labels {labels}`" in said


def test_build_takes_labels_of_a_list(tmp_path: Path, jepa):
    root = lay(tmp_path / "in", [f"{n}.png" for n in range(8)])
    (tmp_path / "l.csv").write_text("file,label\n" + "".join(f"{n}.png,{'cat' if n % 2 else 'dog'}\n" for n in range(7)))
    code, said = jepa("build", root, tmp_path / "out", "--labels", tmp_path / "l.csv")
    assert code == 0 and "1 of 8 files have no label in" in said and "such as 7.png: they are skipped" in said
    manifest = load_manifest(tmp_path / "out")
    assert (manifest.samples, manifest.classes) == (7, ("cat", "dog"))
    assert [(skip.file, skip.reason) for skip in manifest.skipped] == [("7.png", "l.csv has no label for it")]
    expected = {png(n): int(n % 2 == 0) for n in range(7)}
    assert {sample.media: sample.label for sample in samples(tmp_path / "out")} == expected
    assert check(tmp_path / "out", workers=1).ok


def test_a_class_without_a_file_is_exit_code_1(tmp_path: Path, jepa):
    root = lay(tmp_path / "in", ["0.png", "1.png", "2.png"])
    (tmp_path / "l.csv").write_text("file,label\n0.png,cat\n1.png,dog\n2.png,dog\ngone.png,zebra\n")
    code, said = jepa("build", root, tmp_path / "out", "--labels", tmp_path / "l.csv")
    assert code == 1 and "lost: 1 class (zebra) without a file that could be used" in said
    assert load_manifest(tmp_path / "out").samples == 3


def test_a_class_of_damaged_files_is_exit_code_1(tmp_path: Path, jepa):
    root = lay(tmp_path / "in", [f"{name}/{n}.png" for name in ("cat", "dog", "fox") for n in range(2)])
    for path in (root / "dog").iterdir():
        path.write_bytes(b"no image")
    code, said = jepa("build", root, tmp_path / "out")
    assert code == 1 and "lost: 1 class (dog)" in said
    (root / "dog/0.png").write_bytes(png(9))
    assert jepa("build", root, tmp_path / "again")[0] == 0


def test_a_class_folder_that_is_a_link_to_another_is_lost(tmp_path: Path, jepa):
    root = lay(tmp_path / "in", [f"{name}/{n}.png" for name in ("cat", "dog") for n in range(2)])
    (root / "kitten").symlink_to(root / "cat")
    (root / "dog/gone.png").symlink_to(root / "dog/none.png")
    code, said = jepa("build", root, tmp_path / "out")
    assert code == 1 and "lost: 1 class (kitten)" in said and load_manifest(tmp_path / "out").samples == 4
    reasons = {skip.file: skip.reason for skip in load_manifest(tmp_path / "out").skipped}
    assert reasons["kitten/0.png"] == "it is a link to another image of the folder" and "No such file" in reasons["dog/gone.png"]


@pytest.mark.parametrize("others", [(), ("fox",)])
def test_a_class_in_a_format_that_is_not_read_is_exit_code_1(tmp_path: Path, others: tuple[str, ...], jepa):
    root = lay(tmp_path / "in", [f"{name}/{n}.png" for name in ("dog", *others) for n in range(2)])
    for name in ("cat/0.bmp", "notes/read.txt"):
        (root / name).parent.mkdir()
        (root / name).write_bytes(b"II*")
    code, said = jepa("build", root, tmp_path / "out")
    assert code == 1 and "lost: 1 class (cat)" in said and "without a file of a format that is read" in said
    assert load_manifest(tmp_path / "out").classes == ("cat", "dog", *others)
    assert jepa("build", root, tmp_path / "none", "--labels", "none")[0] == 0


def test_a_class_in_one_part_alone_is_named(tmp_path: Path):
    root = lay(tmp_path / "in", ["rare/0.png", *(f"cat/{n}.png" for n in range(6)), *(f"dog/{n}.png" for n in range(6))])
    built = build(root, tmp_path / "out", split=0.3, workers=1)
    assert built.lost == () and [*built.describe_classes()] == [f"{tmp_path}/out/test has no sample of 1 class (rare)"]


def numbered(folder: Path, labels: list[object], extension: str = "cls", tars: int = 1) -> Path:
    """Tars of samples 00000, 00001, ... with the given labels."""
    for tar in range(tars):
        members = {}
        for number, label in enumerate(labels):
            if number % tars == tar:
                text = str(label) if extension == "cls" else json.dumps({"label": label})
                members |= {f"{number:05d}.png": png(number), f"{number:05d}.{extension}": text.encode()}
        pack(folder / f"{tar}.tar", members)
    return folder


@pytest.mark.parametrize("dress", [str, float, lambda label: f'"{label}"', lambda label: [label]])
@pytest.mark.parametrize("extension", ["cls", "json"])
def test_labels_in_another_dress_are_the_same_data_set(tmp_path: Path, dress: Callable[[int], object], extension: str):
    plain = index([str(numbered(tmp_path / "plain", [0, 1, 2, 1]))], workers=1).manifest
    dressed = index([str(numbered(tmp_path / "dressed", [dress(n) for n in (0, 1, 2, 1)], extension))], workers=1).manifest
    assert dressed.classes == plain.classes == ("0", "1", "2")
    assert [sample.label for sample in samples(tmp_path / "dressed")] == [0, 1, 2, 1]
    assert check(tmp_path / "dressed", workers=1).ok


@pytest.mark.parametrize(
    ("labels", "names", "sentence"),
    [
        ([1, 2, 3, 1], "cat\ndog\nfox", "the labels of 0.tar begin at 1 and end at 3"),
        ([0, 1, 2, 3], "cat\ndog\nfox", "0.tar has the label 3, but 3 names are those of the labels 0 to 2"),
        ([0, 1, 5], "cat\ndog", "0.tar has the label 5, but 2 names"),
    ],
)
def test_names_that_do_not_fit_the_labels_are_refused_and_leave_an_earlier_index(tmp_path: Path, labels, names, sentence, jepa):
    folder = numbered(tmp_path / "set", labels)
    index([str(folder)], workers=1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (tmp_path / "names").write_text(names)
    code, said = jepa("index", folder, "--classes", tmp_path / "names")
    assert code == 2 and sentence in said
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_empty_first_class_is_named(tmp_path: Path, jepa):
    folder = numbered(tmp_path / "set", [1, 2, 1])
    code, said = jepa("index", folder)
    assert code == 0 and "labels begin at 1 and end at 2, so that class 0 is empty" in said
    (tmp_path / "names").write_text("none\ncat\ndog\n")
    code, said = jepa("index", folder, "--classes", tmp_path / "names")
    assert code == 0 and "no sample has the label of 1 class (none)" in said


def test_labels_may_be_the_names(tmp_path: Path, jepa):
    folder = numbered(tmp_path / "set", ["dog", "cat", "dog"])
    code, said = jepa("index", folder)
    assert code == 1 and "none of 3 labels could be read, as in 0.tar: 00000: its label 'dog' is not a whole number" in said
    (tmp_path / "names").write_text("cat\ndog\n")
    assert jepa("index", folder, "--classes", tmp_path / "names")[0] == 0
    assert [sample.label for sample in samples(folder)] == [1, 0, 1] and check(folder, workers=1).ok


@pytest.mark.parametrize("extension", ["cls", "json"])
def test_a_class_that_the_names_lack_is_exit_code_1(tmp_path: Path, extension: str, jepa):
    folder = numbered(tmp_path / "set", ["cat", "dog", "fox", "NA"], extension)
    (tmp_path / "names").write_text("cat\nfox\n")
    code, said = jepa("index", folder, "--classes", tmp_path / "names")
    assert code == 1 and "lost: 1 class (dog) that --classes lacks, as in 0.tar: 00001 is skipped" in said
    (tmp_path / "names").write_text("cat\ndog\nfox\n")
    assert jepa("index", folder, "--classes", tmp_path / "names")[0] == 0


@pytest.mark.parametrize("extension", ["cls", "json"])
def test_labels_that_are_met_and_lost_are_exit_code_1(tmp_path: Path, extension: str, jepa):
    folder = numbered(tmp_path / "set", [[0, 1], [1, 2]], extension)
    code, said = jepa("index", folder)
    assert code == 1 and "none of 2 labels could be read, as in 0.tar: 00000: its label '[0, 1]' is not a whole number" in said
    assert load_manifest(folder).samples == 2 and "neither in a .cls" not in said
    code, said = jepa("index", folder, "--labels", "none")
    assert code == 0 and "labels are not wanted" in said


def test_labels_behind_their_images_are_exit_code_1(tmp_path: Path, jepa):
    pack(tmp_path / "set/a.tar", {f"{n}.png": png(n) for n in range(3)} | {f"{n}.cls": b"1" for n in range(3)})
    code, said = jepa("index", tmp_path / "set")
    assert code == 1 and "none of 3 labels could be read, as in a.tar: 0: its members" in said and "names of classes" not in said
    assert "a.tar: 0: its members are not next to each other, so that its cls is not read: pack" in said and "skipped" not in said
    assert load_manifest(tmp_path / "set").samples == 3 and not load_manifest(tmp_path / "set").skipped
    for look in ("check", "stats"):
        code, said = jepa(look, tmp_path / "set")
        assert code == 0 and "none of 3 labels could be read" in said and "skipped" not in said
    (tmp_path / "names").write_text("cat\ndog\n")
    code, said = jepa("index", tmp_path / "set", "--classes", tmp_path / "names")
    assert code == 2 and "so that its cls is not read" in said and "it has no label" not in said


def test_without_any_label_the_exit_code_is_0(tmp_path: Path, jepa):
    pack(tmp_path / "set/a.tar", {f"{n}.png": png(n) for n in range(3)})
    code, said = jepa("index", tmp_path / "set")
    assert code == 0 and "no sample has a label, neither in a .cls nor in a .json" in said


def test_index_takes_labels_of_a_list(tmp_path: Path, jepa):
    folder = numbered(tmp_path / "set", ["7", "8", "9", "7"], tars=2)
    plain = index([str(folder)], out=tmp_path / "plain", workers=1).manifest
    path = tmp_path / "l.tsv"
    path.write_text("id\tlabel\n00000\tcat\n00001\tdog\n00003\tdog\n")
    code, said = jepa("index", folder, "--labels", path)
    assert code == 0 and "1 of 4 samples have no label in" in said and "such as 0.tar/00002: they are skipped" in said
    manifest = load_manifest(folder)
    assert (manifest.classes, manifest.samples, manifest.made["labels"]) == (("cat", "dog"), 3, "list")
    assert {sample.key: sample.label for sample in samples(folder)} == {"00000": 0, "00001": 1, "00003": 1}
    report = check(folder, workers=1)
    assert report.ok and report.parts[0].classes == {"cat": 1, "dog": 2}
    path.write_text("id\tlabel\n00000\tcat\n00001\tcat\n00003\tdog\n")
    assert jepa("index", folder, "--labels", path)[0] == 0
    assert len({manifest.hash(), load_manifest(folder).hash(), plain.hash()}) == 3, "other labels are another data set"


def test_index_gives_keys_that_repeat_the_labels_of_their_tars(tmp_path: Path):
    for seed, name in enumerate("ab"):
        pack(tmp_path / f"set/{name}.tar", {"0000.png": png(seed)})
    (tmp_path / "l.csv").write_text("b.tar/0000,dog\na.tar/0000,cat\n")
    index([str(tmp_path / "set")], labels=tmp_path / "l.csv", workers=1)
    assert {sample.media: sample.label for sample in samples(tmp_path / "set")} == {png(0): 0, png(1): 1}


def test_check_finds_damage_under_labels_of_a_list(tmp_path: Path):
    folder = numbered(tmp_path / "set", [0, 1, 0])
    (tmp_path / "l.csv").write_text("00000,cat\n00001,dog\n")
    index([str(folder)], labels=tmp_path / "l.csv", workers=1)
    tar, beside = folder / "0.tar", folder / "0.index.json"
    changed = json.loads(beside.read_text())
    beside.write_text(json.dumps({**changed, "labels": [0, 5]}))
    assert ["its index has the label 5" in problem for problem in check(folder, workers=1).problems] == [True]
    beside.write_text(json.dumps({**changed, "keys": ["00000", "00009"]}))
    assert check(folder, workers=1).problems
    beside.write_text(json.dumps(changed))
    data = tar.read_bytes()
    tar.write_bytes(data.replace(png(1), png(1)[:100] + b"x" * (len(png(1)) - 100)))
    assert check(folder, workers=1).problems


def test_a_list_and_its_samples_must_fit(tmp_path: Path):
    folder = numbered(tmp_path / "set", [0, 1, 0])
    (tmp_path / "l.csv").write_text("x,cat\ny,dog\n")
    with pytest.raises(UserError, match=r"no row of .* fits a file of the tars: a row names x, a file is 0.tar/00000"):
        index([str(folder)], labels=tmp_path / "l.csv", workers=1)
    pack(folder / "1.tar", {"00000.png": png(3)})
    (tmp_path / "l.csv").write_text("00000,cat\n00001,dog\n")
    with pytest.raises(UserError, match=r"the row 00000 of .* fits 0.tar/00000 and 1.tar/00000"):
        index([str(folder)], labels=tmp_path / "l.csv", workers=1)
    assert sorted(path.name for path in folder.iterdir()) == ["0.tar", "1.tar"]


def test_a_class_of_a_list_without_a_sample_is_exit_code_1(tmp_path: Path, jepa):
    folder = numbered(tmp_path / "set", [0, 1])
    (tmp_path / "l.csv").write_text("00000,cat\n00001,dog\ngone,zebra\n")
    code, said = jepa("index", folder, "--labels", tmp_path / "l.csv")
    assert code == 1 and "lost: 1 class (zebra) without a sample" in said and "1 of 3 rows of" in said


def test_a_member_is_chosen(tmp_path: Path, jepa):
    members = {}
    for n in range(3):
        members |= {f"{n}.left.png": png(n), f"{n}.right.png": png(10 + n), f"{n}.cls": b"%d" % n}
    pack(tmp_path / "set/a.tar", members)
    code, said = jepa("index", tmp_path / "set")
    assert code == 2 and "or index with --member left.png" in said
    frames = pack(tmp_path / "frames/a.tar", {f"v1.{n}.png": png(n) for n in range(3)})
    code, said = jepa("index", frames)
    assert code == 2 and "rename its members to have one dot" in said and "--member" not in said  # each sample has other numbers
    hashes = set()
    for name, first in (("left.png", 0), (".RIGHT.PNG", 10), ("right", 10)):
        assert jepa("index", tmp_path / "set", "--member", name)[0] == 0
        assert [sample.media for sample in samples(tmp_path / "set")] == [png(first + n) for n in range(3)]
        assert [sample.label for sample in samples(tmp_path / "set")] == [0, 1, 2]
        assert check(tmp_path / "set", workers=1).ok
        hashes.add(load_manifest(tmp_path / "set").hash())
    assert len(hashes) == 3, "another member is another data set"


def test_several_images_in_a_sample_are_named(tmp_path: Path, jepa):
    pack(tmp_path / "set/a.tar", {"0.jpg": png(0), "0.png": png(1), "1.jpg": png(2), "1.png": png(3)})
    code, said = jepa("index", tmp_path / "set")
    assert code == 0 and "samples have several images (jpg, png), of which jpg is used: choose with --member" in said
    assert load_index(tmp_path / "set/a.tar").media_range(0) == load_index(tmp_path / "set/a.tar").members["jpg"][0]
    assert "several images" not in jepa("index", tmp_path / "set", "--member", "png")[1]
    assert samples(tmp_path / "set")[0].media == png(1)


@pytest.mark.parametrize(
    ("names", "commands"),
    [
        (("train-000", "train-001", "val-000"), ("/train-00*.tar' --out OUT/train`", "/val-000.tar' --out OUT/test`")),
        (("imagenet1k-train-0000", "imagenet1k-train-0999", "imagenet1k-validation-00"), ("/imagenet1k-train-0*.tar'",)),
    ],
)
def test_tars_of_two_parts_are_refused(tmp_path: Path, names: tuple[str, ...], commands: tuple[str, ...], jepa):
    for number, name in enumerate(names):
        pack(tmp_path / "set" / f"{name}.tar", {"0.png": png(number), "0.cls": b"0"})
    code, said = jepa("index", tmp_path / "set")
    assert code == 2 and "index each part by itself" in said and all(command in said for command in commands)
    assert jepa("index", tmp_path / "set", "--labels", "none")[0] == 0


def test_no_labels_and_names_exclude_each_other(tmp_path: Path, jepa):
    (tmp_path / "names").write_text("cat\ndog\n")
    for command in (("build", lay(tmp_path / "in", ["a.png"]), tmp_path / "out"), ("index", numbered(tmp_path / "set", [0]))):
        code, said = jepa(*command, "--labels", "none", "--classes", tmp_path / "names")
        assert code == 2 and "there are to be no labels, but" in said and "names some: leave one of the two out" in said


def test_the_split_of_a_list_has_its_share_of_every_class(tmp_path: Path):
    root = lay(tmp_path / "in", [f"{n}.png" for n in range(20)])
    (tmp_path / "l.txt").write_text("".join(f"{n}.png {n % 2 + 1}\n" for n in range(20)))
    built = build(root, tmp_path / "out", split=0.2, workers=1, labels=tmp_path / "l.txt")
    assert [manifest.classes for manifest in built.values()] == [("1", "2")] * 2
    assert Counter(sample.label for sample in samples(tmp_path / "out/test")) == {0: 2, 1: 2}


def test_labels_of_a_list_are_not_to_be_had_from_a_url_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = numbered(tmp_path / "set", [0, 1])
    (tmp_path / "l.csv").write_text("00000,cat\n00001,dog\n")
    manifest = index([str(folder)], labels=tmp_path / "l.csv", workers=1).manifest
    monkeypatch.setattr("jepa_pipeline.data.shards.read_manifest", lambda _: manifest)
    with pytest.raises(UserError, match=r"has labels of a list, which are in its index files only: copy its manifest and"):
        Shards("https://host/set")
