"""Lists of labels in the forms in which data sets are published."""

import codecs
import json
import unicodedata
from pathlib import Path

import pytest

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.label_list import read_label_list
from jepa_pipeline.data.label_table import read_rows

PAIRS = {"cats/a.jpg": "cat", "b c.png": "dog", "d": "fox"}


def write(folder: Path, name: str, text: str | bytes) -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def labels(path: Path) -> dict[str, str]:
    return {row.names[0]: row.label for row in read_rows(path)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "path,label\ncats/a.jpg,cat\nb c.png,dog\nd,fox\n"),
        ("l.csv", codecs.BOM_UTF8 + b"path,label\r\ncats/a.jpg,cat\r\nb c.png,dog\r\nd,fox\r\n"),
        ("l.csv", "path,label\ncats/a.jpg,cat\nb c.png,dog\nd,fox\n".encode("utf-16")),
        ("l.csv", '"Label","ignored","File Name"\n"cat","1","cats/a.jpg"\n"dog","1","b c.png"\nfox,,d\n'),
        ("l.csv", "cats/a.jpg,cat\nb c.png,dog\nd,fox\n"),
        ("l.csv", "cat,cats/a.jpg\ndog,b c.png\nfox,d\n"),
        ("l.csv", "id;class_name\ncats/a.jpg;cat\nb c.png;dog\nd;fox\n"),
        ("l.tsv", "image_id\tclass\ncats/a.jpg\tcat\nb c.png\tdog\nd\tfox\n"),
        ("l.txt", "cats/a.jpg cat\nb c.png dog\nd fox\n"),
        ("l.json", json.dumps(PAIRS)),
        ("l.json", json.dumps([*PAIRS.items()])),
        ("l.json", json.dumps([{"file": file, "label": label} for file, label in PAIRS.items()])),
        ("l.json", json.dumps({"labels": [*PAIRS.items()]})),
        ("l.jsonl", "\n".join(json.dumps({"file_name": file, "label": label}) for file, label in PAIRS.items())),
        (
            "coco.json",
            json.dumps(
                {
                    "images": [{"id": n, "file_name": file} for n, file in enumerate(PAIRS)],
                    "categories": [{"id": 10 + n, "name": label} for n, label in enumerate(PAIRS.values())],
                    "annotations": [{"image_id": n, "category_id": 10 + n} for n in range(3)],
                }
            ),
        ),
    ],
)
def test_a_list_has_any_usual_form(tmp_path: Path, name: str, text: str | bytes):
    assert labels(write(tmp_path, name, text)) == PAIRS


def test_paths_and_numbers_without_a_header_are_those_of_video_lists(tmp_path: Path):
    assert labels(write(tmp_path, "vjepa.csv", "/k400/train/a b.mp4 7\n/k400/train/c.mp4 11\n")) == {
        "/k400/train/a b.mp4": "7",
        "/k400/train/c.mp4": "11",
    }
    assert labels(write(tmp_path, "frames.txt", "videos/a.mp4 120 3\n")) == {"videos/a.mp4": "3"}
    assert labels(write(tmp_path, "ucf.txt", "ApplyEyeMakeup/v_g08_c01.avi 1\n")) == {"ApplyEyeMakeup/v_g08_c01.avi": "1"}
    assert labels(write(tmp_path, "imagenet.txt", "ILSVRC2012_val_00000001.JPEG 65\n")) == {"ILSVRC2012_val_00000001.JPEG": "65"}
    assert labels(write(tmp_path, "names.txt", "a.jpg golden retriever\n")) == {"a.jpg": "golden retriever"}
    assert labels(write(tmp_path, "floats.csv", "file,label\na.jpg,7.0\nb.jpg,\n")) == {"a.jpg": "7", "b.jpg": ""}


KINETICS = """label,youtube_id,time_start,time_end,split
abseiling,_4YTwq0-73Y,14,24,train
"yoga, hot",abc_def,0,10,train
"""


def test_kinetics_names_its_clips_by_id_and_seconds(tmp_path: Path):
    listed = read_label_list(write(tmp_path, "train.csv", KINETICS))
    assert listed.find("abseiling/_4YTwq0-73Y_000014_000024.mp4") == "abseiling"
    assert listed.find("abc_def.mp4") == "yoga, hot", "some have the whole video"
    assert listed.find("abc_def_000010_000020.mp4") is None
    text = json.dumps({"_4YTwq0-73Y": {"annotations": {"label": "abseiling", "segment": [14.0, 24.0]}, "subset": "training"}})
    assert read_label_list(write(tmp_path, "k.json", text)).find("_4YTwq0-73Y_000014_000024.mp4") == "abseiling"


def test_something_somethings_class_is_the_template_without_brackets(tmp_path: Path):
    rows = [{"id": "78687", "label": "holding potato next to vicks", "template": "Holding [something] next to [something]"}]
    listed = read_label_list(write(tmp_path, "train.json", json.dumps(rows)))
    assert listed.find("20bn/78687.webm") == "Holding something next to something"


@pytest.mark.parametrize(
    ("row", "file", "fits"),
    [
        ("/data/k400/train/a.mp4", "train/a.mp4", True),
        ("a.mp4", "train/a.mp4", True),
        ("./train/a.mp4", "train/a.mp4", True),
        ("train\\a.mp4", "train/a.mp4", True),
        ("a", "train/a.MP4", True),
        ("a.mp4", "train/a.webm", True),
        ("a.v2", "a.v2.mp4", True),
        ("val/a.mp4", "train/a.mp4", False),
        ("ba.mp4", "a.mp4", False),
        ("A.mp4", "a.mp4", False),
    ],
)
def test_a_row_fits_the_end_of_a_path_with_any_suffix(tmp_path: Path, row: str, file: str, fits: bool):
    listed = read_label_list(write(tmp_path, "l.csv", f"path,label\n{row},cat\n"))
    assert listed.find(file) == ("cat" if fits else None)


def test_the_most_exact_row_counts(tmp_path: Path):
    text = "path,label\nx/1.jpg,cat\ny/1.jpg,dog\n1.jpg,cow\n2.png,hen\n2.jpg,emu\n"
    listed = read_label_list(write(tmp_path, "l.csv", text))
    assert [listed.find(name) for name in ("x/1.jpg", "y/1.jpg", "2.jpg", "2.png")] == ["cat", "dog", "emu", "hen"]


def test_what_cannot_be_told_apart_is_refused(tmp_path: Path):
    listed = read_label_list(write(tmp_path, "l.csv", "path,label\nx/1.jpg,cat\ny/1.jpg,dog\n2.jpg,cow\n"))
    with pytest.raises(UserError, match=r"gives 1.jpg the labels 'cat' and 'dog': a sample has one"):
        listed.find("1.jpg")
    assert listed.find("a/2.jpg") == "cow"
    with pytest.raises(UserError, match=r"the row 2.jpg of .* fits a/2.jpg and b/2.jpg: write paths that tell them apart"):
        listed.find("b/2.jpg")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("l.csv", "", "is empty"),
        ("l.csv", "path,width\na.jpg,3\n", "has the columns path, width, but none of labels"),
        ("l.csv", "width,label\n3,cat\n", "has the columns label, width, but none of files"),
        ("l.csv", "path,label\na.jpg,\n", "gives no file a label"),
        ("l.txt", "a.jpg\nb.jpg\n", "has the row 'a.jpg' without a label"),
        ("l.json", '{"a": ', "is not readable JSON"),
        ("l.json", "3", "is JSON, but neither"),
        ("l.json", '[{"id": 1, "label": [2, 3]}]', r"gives 1 the label \[2, 3\]: a sample has one label"),
        ("l.csv", b"\x89PNG\r\n\x1a\n\xff", "cannot be read as text"),
    ],
)
def test_a_list_that_is_not_understood_is_one_sentence(tmp_path: Path, name: str, text: str | bytes, sentence: str):
    with pytest.raises(UserError, match=sentence) as caught:
        read_label_list(write(tmp_path, name, text))
    assert "\n" not in str(caught.value)


def test_rows_of_two_parts_are_refused_only_if_both_have_files(tmp_path: Path):
    text = KINETICS + "archery,xyz,1,11,validate\n"
    listed = read_label_list(write(tmp_path, "all.csv", text))
    listed.find("_4YTwq0-73Y_000014_000024.mp4")
    listed.check_parts()
    listed.find("xyz_000001_000011.mp4")
    with pytest.raises(UserError, match="has rows of train and validate, which belong in separate data sets"):
        listed.check_parts()


@pytest.mark.parametrize("later", ["", '3.png\t"small" dog\n', '3.png\tsmall" dog\n4.png\t"dog"\n'])
def test_a_stray_quote_is_refused_with_its_line(tmp_path: Path, later: str):
    path = write(tmp_path, "l.tsv", f'path\tlabel\n0.png\tcat\n1.png\t"big cat\n2.png\tdog\n{later}')
    with pytest.raises(UserError, match="has a stray quote in line 3"):
        read_rows(path)


def test_a_quoted_cell_keeps_its_line_break(tmp_path: Path):
    text = 'path,label,note\r\n0.png,"cat","two\r\nlines"\r\n\r\n1.png,"big ""cat""\nhouse",\r\n'
    assert labels(write(tmp_path, "l.csv", text)) == {"0.png": "cat", "1.png": 'big "cat"\nhouse'}


@pytest.mark.parametrize(
    "text", ["0.png,cat,train\n1.png,dog,val\n", "00000,cat,3\n", "train,3,0.png\n", '[["0.png", 3, "train"]]']
)
def test_three_columns_without_a_header_are_refused_unless_they_are_numbers(tmp_path: Path, text: str):
    path = write(tmp_path, "l.txt", text)
    with pytest.raises(UserError, match=r"has no header, .* add a header such as path,label,split"):
        read_rows(path)


def test_the_first_complete_column_of_labels_counts(tmp_path: Path):
    head = "path,label,class_name\n"
    assert labels(write(tmp_path, "l.csv", head + "0.png,3,cat\n1.png,4,\n2.png,5,NA\n")) == {
        "0.png": "3",
        "1.png": "4",
        "2.png": "5",
    }
    assert labels(write(tmp_path, "l.csv", head + "0.png,3,cat\n1.png,,dog\n2.png,,\n")) == {
        "0.png": "cat",
        "1.png": "dog",
        "2.png": "",
    }
    with pytest.raises(
        UserError, match=r"labels in the columns class_name, label, but none in all rows: class_name has none in 1 rows"
    ):
        read_rows(write(tmp_path, "l.csv", head + "0.png,3,\n1.png,,dog\n"))


@pytest.mark.parametrize("placeholder", ["", "-1", "-1.0", "NA", "N/A", "nan", "NaN", "null", "?"])
def test_placeholders_are_no_label_and_are_counted(tmp_path: Path, placeholder: str):
    listed = read_label_list(write(tmp_path, "l.csv", f"path,label\n0.png,cat\n1.png,{placeholder}\n2.png,dog\n"))
    assert listed.labels == {"cat", "dog"} and listed.find("1.png") is None
    assert "1 of 3 rows of" in listed.describe_unfitted()[0] and "such as 1.png" in listed.describe_unfitted()[0]


@pytest.mark.parametrize(
    ("row", "folder", "fits"),
    [
        ("train/0.png", "in/train", True),
        ("/data/in/train/0.png", "in/train", True),
        ("val/0.png", "in/train", False),
        ("val/images/0.png", "train/images", False),
        ("train/images/0.png", "train/images", True),
        ("val/0.png", "in/pictures", True),
        ("cats/0.png", "in/dogs", True),
        ("/data/k400/train/0.png", "train", True),
        ("/home/data/k400/0.png", "data", True),
    ],
)
def test_a_row_of_another_part_fits_no_file(tmp_path: Path, row: str, folder: str, fits: bool):
    listed = read_label_list(write(tmp_path, "l.csv", f"path,label\n{row},cat\n"))
    listed.locate(Path("/data") / folder)
    assert listed.find("0.png") == ("cat" if fits else None)


def test_a_row_of_another_folder_fits_no_file_if_the_list_has_this_one_too(tmp_path: Path):
    listed = read_label_list(write(tmp_path, "l.csv", "path,label\ncats/0.png,cat\ndogs/0.png,dog\ncats/1.png,cat\n"))
    listed.locate("/data/dogs")
    assert listed.find("0.png") == "dog" and listed.find("1.png") is None


def test_a_row_of_another_part_fits_no_sample_of_a_tar(tmp_path: Path):
    listed = read_label_list(write(tmp_path, "l.csv", "path,label\nval/0.png,cat\ntrain/1.png,dog\n"))
    listed.locate("/data/train", ["a.tar"])
    assert listed.find("0", "a.tar/") is None and listed.find("1", "a.tar/") == "dog"
    listed.locate("/data/in", ["train-0.tar"])
    assert listed.find("0", "train-0.tar/") is None


@pytest.mark.parametrize("suffix", [".tar", ""])
def test_rows_name_the_tar_of_keys_that_repeat(tmp_path: Path, suffix: str):
    text = f"path,label\na{suffix}/0.png,cat\nin/b{suffix}/0.png,dog\nc{suffix}/1.png,fox\n"
    listed = read_label_list(write(tmp_path, "l.csv", text))
    listed.locate("/data/in", ["a.tar", "b.tar", "c.tar"])
    assert [listed.find("0", f"{tar}.tar/") for tar in "abc"] == ["cat", "dog", None]
    assert [listed.find("1", f"{tar}.tar/") for tar in "abc"] == [None, None, "fox"]


NFC, NFD = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("row", "file"), [(f"{NFC}.png", f"{NFD}.png"), (f"{NFD}/1.png", f"{NFC}/1.png"), (f"{NFD}_1", f"{NFC}_1.mp4")]
)
def test_accents_may_be_stored_otherwise_than_in_the_list(tmp_path: Path, row: str, file: str):
    listed = read_label_list(write(tmp_path, "l.csv", f"path,label\n{row},cat\nb.png,{NFD}\nc.png,{NFC}\n"))
    assert listed.find(file) == "cat" and listed.labels == {"cat", NFC}, "two labels that look the same are one class"
    assert listed.find("b.png") == listed.find("c.png") == NFC and not listed.lost_classes()


def test_the_same_accents_count_more_and_one_row_is_of_one_file(tmp_path: Path):
    listed = read_label_list(write(tmp_path, "l.csv", f"path,label\n{NFC}.png,cat\n{NFD}.png,dog\n"))
    assert [listed.find(f"{name}.png") for name in (NFC, NFD)] == ["cat", "dog"]
    listed = read_label_list(write(tmp_path, "l.csv", f"path,label\n{NFC}.png,cat\n"))
    listed.find(f"{NFC}.png")
    with pytest.raises(UserError, match=r"rename one, as they differ in how accents are stored only"):
        listed.find(f"{NFD}.png")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_refused_with_the_cure(tmp_path: Path, encoding: str):
    with pytest.raises(UserError, match=r"cannot be read as text, because .*: save it as UTF-8"):
        read_rows(write(tmp_path, "l.csv", "path,label\na.png,Käse\n".encode(encoding)))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", '# made by hand\npath,label\ncats/a.jpg,cat\n# "dogs\nb c.png,dog\nd,fox\n'),
        ("l.csv", "#path,label\ncats/a.jpg,cat\nb c.png,dog\nd,fox\n"),
        ("l.csv", "sep=;\npath;label\ncats/a.jpg;cat\nb c.png;dog\nd;fox\n"),
        ("l.txt", "# file class\n# e.png cow\ncats/a.jpg cat\nb c.png dog\nd fox\n"),
        ("l.csv", "Image File,Class Label\ncats/a.jpg,cat\nb c.png,dog\nd,fox\n"),
        ("l.csv", "relative path (posix),label_text,width\ncats/a.jpg,cat,3\nb c.png,dog,3\nd,fox,3\n"),
        ("l.csv", ",x,label\n0,cats/a.jpg,cat\n1,b c.png,dog\n2,d.png,fox\n"),
        ("l.txt", "path label split\ncats/a.jpg cat train\nb c.png dog train\nd fox train\n"),
        ("l.json", json.dumps({label: [file] for file, label in PAIRS.items()})),
        ("l.json", json.dumps({"cat": ["cats/a.jpg"], "dog": ["b c.png"], "fox": ["d"], "cow": []})),
        ("l.json", json.dumps({file: [label] for file, label in PAIRS.items()})),
        ("l.json", json.dumps({"train": PAIRS})),
        ("l.json", json.dumps({"train": {label: [file] for file, label in PAIRS.items()}, "val": {}})),
    ],
)
def test_a_list_may_have_comments_other_headers_and_files_by_class(tmp_path: Path, name: str, text: str):
    found = labels(write(tmp_path, name, text))
    assert {file.removesuffix(".png") if file == "d.png" else file: label for file, label in found.items()} == PAIRS


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("l.txt", "0.png 3 train\n1.png 4 train\n", r"any of the 3 columns of \['0.png', '3', 'train'\] could be the label"),
        ("l.txt", "0.png cat train\n1.png big dog val\n", r"columns of \['0.png', 'cat', 'train'\] could be the label"),
        ("l.txt", "00000 3 test\n00001 steam engine\n", r"columns of \['00000', '3', 'test'\] could be the label"),
        ("l.txt", "path label split\n0.png big cat train\n", "has more words: separate cells by tabs or commas"),
        ("l.csv", "path,label\n0.png,cat\n1,2.png,dog\n", r"a row has the 3 cells \['1', '2.png', 'dog'\]: name all columns"),
        ("l.csv", "path,label,label\n0.png,cat,dog\n", "has two columns with the name label"),
        ("l.csv", "foo,bar\n0.png,cat\n1.png,dog\n", "has the columns bar, foo, but none of labels"),
        ("l.csv", "My pictures\npath,label\n0.png,cat\n", "has the row 'My pictures' without a label"),
        ("l.json", '{"0.png": "cat", "0.png": "dog"}', "an object repeats the key '0.png'"),
        ("l.json", '{"cat": ["0.png"], "cat": ["1.png"]}', "an object repeats the key 'cat'"),
        ("l.csv", "# nothing\n", "has nothing but comments"),
    ],
)
def test_what_would_be_a_wrong_label_is_refused(tmp_path: Path, name: str, text: str, sentence: str):
    with pytest.raises(UserError, match=sentence):
        read_rows(write(tmp_path, name, text))


def test_parts_of_a_json_list_are_refused_only_if_both_have_files(tmp_path: Path):
    listed = read_label_list(write(tmp_path, "l.json", json.dumps({"train": {"0.png": 3}, "val": {"1.png": 4}})))
    assert listed.find("0.png") == "3"
    listed.check_parts()
    listed.find("1.png")
    with pytest.raises(UserError, match="has rows of train and val, which belong in separate data sets"):
        listed.check_parts()


def test_a_name_may_begin_with_a_hash_and_a_class_end_with_a_part(tmp_path: Path):
    assert labels(write(tmp_path, "l.csv", "#1.png,cat\n#2.png,dog\n")) == {"#1.png": "cat", "#2.png": "dog"}
    assert labels(write(tmp_path, "l.txt", "0.png steam train\n1.png cow\n")) == {"0.png": "steam train", "1.png": "cow"}


@pytest.mark.parametrize("text", ["img_001,class_3\nimg_002,class_4\n", "image a,class b\nimage c,class d\n"])
def test_a_first_row_like_the_second_is_no_header(tmp_path: Path, text: str):
    assert len(labels(write(tmp_path, "l.csv", text))) == 2


def test_files_by_class_may_lack_suffixes(tmp_path: Path):
    assert labels(write(tmp_path, "l.json", '{"cat": ["0", "1"], "dog": ["2"]}')) == {"0": "cat", "1": "cat", "2": "dog"}
    with pytest.raises(UserError, match="a sample has one label"):
        read_rows(write(tmp_path, "l.json", '{"0": ["cat", "dog"], "1": ["cat"]}'))


@pytest.mark.parametrize(("labels_of_rows", "said"), [(range(12), True), ([*range(11), 0], False), (range(5), False)])
def test_a_label_for_every_row_is_named(tmp_path: Path, labels_of_rows: list[int], said: bool):
    text = "path,label\n" + "".join(f"{row}.png,0.5{label}\n" for row, label in enumerate(labels_of_rows))
    listed = read_label_list(write(tmp_path, "l.csv", text))
    for row in range(len(labels_of_rows)):
        listed.find(f"{row}.png")
    assert [
        f"each of 12 rows of {tmp_path}/l.csv is a class of its own: see that" in line for line in listed.describe_unfitted()
    ] == ([True] if said else [])


def test_a_flag_says_the_part_too(tmp_path: Path):
    text = "path,label,is_training_image\n0.png,cat,1\n1.png,dog,0\n2.png,dog,\n"
    assert [row.part for row in read_rows(write(tmp_path, "l.csv", text))] == ["train", "test", ""]
    rows = [{"file": "0.png", "label": "cat", "is_val": True}, {"file": "1.png", "label": "cat", "is_val": False}]
    assert [row.part for row in read_rows(write(tmp_path, "l.json", json.dumps(rows)))] == ["val", "train"]


def test_labels_that_differ_in_case_are_named(tmp_path: Path):
    listed = read_label_list(write(tmp_path, "l.csv", "path;label\n0.png;Cat, big\n1.png;cat, big\n2.png;dog\n"))
    assert [listed.find(f"{row}.png") for row in range(3)] == ["Cat, big", "cat, big", "dog"]
    assert listed.describe_unfitted() == [
        "the classes 'Cat, big' and 'cat, big' differ in capital letters or spaces only: see that they are two"
    ]
