"""Class names and labels mean the same in whatever form they were stored."""

import codecs
import json
from pathlib import Path

import pytest

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.class_names import number_classes, read_classes, whole_number

NAMES = ("cat", "big dog", "fox")


@pytest.mark.parametrize(
    "content",
    [
        b"cat\nbig dog\nfox\n",
        b"cat\r\nbig dog\r\nfox\r\n\r\n",
        b"cat\rbig dog\rfox",
        codecs.BOM_UTF8 + b"cat\nbig dog\nfox",
        "cat\nbig dog\nfox".encode("utf-16"),
        b'"cat"\n"big dog"\n"fox"\n',
        b'["cat", "big dog", "fox"]',
        b'{"0": "cat", "1": "big dog", "2": "fox"}',
        b'{"fox": 2, "cat": 0, "big dog": 1}',
        b'{"fox": "2", "cat": "0", "big dog": "1"}',
        codecs.BOM_UTF8 + b'["cat",\n"big dog", "fox"]',
    ],
)
@pytest.mark.parametrize("name", ["names.txt", "names"])
def test_names_are_read_in_any_usual_form(tmp_path: Path, content: bytes, name: str):
    (tmp_path / name).write_bytes(content)
    assert read_classes(tmp_path / name) == NAMES


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is empty or has an empty line"),
        ("cat\n\nfox", "is empty or has an empty line"),
        ("cat,dog,fox", "has a single line, 'cat,dog,fox': each line is the name of a class"),
        ("cat\ndog\ncat\n", "gives the labels 0 and 2 the same name, 'cat'"),
        ('["cat", "cat"]', "gives the labels 0 and 1 the same name"),
        ('{"1": "cat", "2": "dog"}', "has 2 names but none for label 0"),
        ('{"0": "cat", "2": "dog"}', "has 2 names but none for label 1"),
        ('{"cat": 0, "dog": 0}', "neither a list of class names nor an object"),
        ("[[1, 2]]", "neither a list of class names nor an object"),
        ("[]", "neither a list of class names nor an object"),
    ],
)
def test_names_that_are_not_understood_are_refused(tmp_path: Path, content: str, sentence: str):
    (tmp_path / "names").write_text(content)
    with pytest.raises(UserError, match=sentence):
        read_classes(tmp_path / "names")


def test_text_that_begins_like_json_may_be_names(tmp_path: Path):
    (tmp_path / "names").write_text("[background]\n{other}\n")
    assert read_classes(tmp_path / "names") == ("[background]", "{other}")
    (tmp_path / "names.json").write_text("[background]")
    with pytest.raises(UserError, match="is not readable JSON"):
        read_classes(tmp_path / "names.json")


@pytest.mark.parametrize("value", [7, 7.0, "7", " 7 ", "7.0", "7.", "+7", '"7"', "'7.0'", [7], ["7"]])
def test_a_whole_number_is_one_in_any_dress(value: object):
    assert whole_number(value) == 7


@pytest.mark.parametrize("value", [True, None, "cat", 7.5, "7.5", [7, 8], [], {"7": 7}, float("nan"), float("inf"), "1e1", "0x7"])
def test_anything_else_is_none(value: object):
    assert whole_number(value) is None


def test_classes_named_by_number_are_in_the_order_of_numbers():
    classes, numbers = number_classes({"10", "2", "1", "007"}, None, "x")
    assert classes.names == ("1", "2", "007", "10") and numbers == {"1": 0, "2": 1, "007": 2, "10": 3}
    assert number_classes({"b", "10", "2"}, None, "x")[0].names == ("10", "2", "b")


def test_labels_are_names_or_numbers_of_the_names_given():
    assert number_classes({"fox", "1"}, NAMES, "x")[1] == {"fox": 2, "1": 1}
    with pytest.raises(UserError, match=r"x has 2 classes \(cow, emu\) that the names given lack"):
        number_classes({"cow", "emu", "cat"}, NAMES, "x")
    with pytest.raises(UserError, match=r"x begin at 1 and end at 3, but labels count from 0"):
        number_classes({"1", "2", "3"}, NAMES, "x")
    with pytest.raises(UserError, match=r"x has the label 3, but 3 names are those of the labels 0 to 2"):
        number_classes({"0", "3"}, NAMES, "x")


def test_something_somethings_classes_are_numbered_by_its_file(tmp_path: Path):
    (tmp_path / "labels.json").write_text(json.dumps({"Holding something": "1", "Approaching something with your camera": "0"}))
    assert read_classes(tmp_path / "labels.json") == ("Approaching something with your camera", "Holding something")
