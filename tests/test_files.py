"""A file is written in full or stays as it was; a damaged line of a log hides no other."""

import fcntl
import json
import multiprocessing
import os

import pytest

from jepa_pipeline.files import STEP, atomic_path, atomic_write, read_json_lines, read_to_rewrite, sweep


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_in_one_piece(tmp_path):
    atomic_write(tmp_path / "report.json", "old")
    with atomic_path(tmp_path / "report.json", sync=True) as temporary:
        temporary.write_text("new")
        assert (tmp_path / "report.json").read_text() == "old"
    assert (tmp_path / "report.json").read_text() == "new" and names(tmp_path) == ["report.json"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), FileNotFoundError(2, "gone", "x")])
def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path, error):
    atomic_write(tmp_path / "report.json", "old")
    with pytest.raises(type(error)), atomic_path(tmp_path / "report.json") as temporary:
        temporary.write_text("half")
        (temporary.parent / "a library's own").touch()
        raise error
    assert (tmp_path / "report.json").read_text() == "old" and names(tmp_path) == ["report.json"]


def test_an_error_of_the_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match="No space left") as refused, atomic_path(tmp_path / "report.json"):
        raise OSError(28, "No space left on device")
    assert refused.value.filename == str(tmp_path / "report.json")
    with pytest.raises(FileNotFoundError) as refused:
        atomic_write(tmp_path / "none" / "report.json", "text")
    assert refused.value.filename == str(tmp_path / "none" / "report.json")


def test_two_that_write_one_file_do_not_meet(tmp_path):
    with atomic_path(tmp_path / "report.json") as first, atomic_path(tmp_path / "report.json") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "report.json").read_text() == "first" and names(tmp_path) == ["report.json"]


def test_a_name_may_be_as_long_as_the_system_lets_it(tmp_path):
    atomic_write(tmp_path / ("ü" * 127), "text")
    assert names(tmp_path) == ["ü" * 127]


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path):
    def die():
        with atomic_path(tmp_path / "model.safetensors") as temporary:
            temporary.write_text("half")
            (temporary.parent / ".tmpAbC123").touch()
            os._exit(9)

    child = multiprocessing.get_context("fork").Process(target=die)
    child.start()
    child.join()
    # what earlier versions left, a folder of a checkpoint, and files of others
    (tmp_path / "step-00000001.partial").mkdir()
    for name in (".tmpAbC123", "old.json.partial", ".demo-26f8e414bae1.json", "report.json", ".mine.json", ".hidden"):
        (tmp_path / name).touch()
    with atomic_path(tmp_path / "living.json") as temporary:
        sweep(tmp_path)
        temporary.write_text("whole")
    assert names(tmp_path) == [".hidden", ".mine.json", "living.json", "report.json"]
    sweep(tmp_path / "none")


def test_without_locks_nothing_that_may_be_in_use_is_swept(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with atomic_path(tmp_path / "living.json") as temporary:
        sweep(tmp_path)
        temporary.write_text("whole")
    assert names(tmp_path) == ["living.json"]


BROKEN = [b"{broken", b'{"step": 2, "lo\xff\xfe', b"[1]", b"7", b'{"step": "2"}', b"{}", b"[" * 100_000, b"\x00" * 50, b"\x85"]


@pytest.mark.parametrize("line", BROKEN, ids=range(len(BROKEN)))
def test_a_damaged_line_is_passed_over_and_counted_and_the_file_kept(tmp_path, line, capsys):
    path, told = tmp_path / "metrics.jsonl", []
    rows = [{"step": step, "text": "a\u2028b"} for step in (1, 3)]
    first, last = (json.dumps(row, ensure_ascii=False).encode() for row in rows)
    content = b"\n".join([first, line, b"", last, b'{"step": 4, "half'])
    path.write_bytes(content)
    assert read_json_lines(path, STEP, told.append) == rows
    assert told == [f"{path}: 1 of 3 lines cannot be read and are passed over"]
    assert read_to_rewrite(path, STEP) == read_to_rewrite(path, STEP) == rows
    assert capsys.readouterr().err.splitlines() == [
        f"{told[0]}; the file as it was is kept as metrics.jsonl.damaged{number}" for number in ("", "1")
    ]
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == content


def test_half_a_line_at_the_end_is_what_a_kill_leaves(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_json_lines(path, STEP, pytest.fail) == []
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_json_lines(path, STEP, pytest.fail) == [{"step": 1}]
    path.write_text('{"step": 1}\n{"step": 2}')
    assert read_json_lines(path, STEP, pytest.fail) == [{"step": 1}, {"step": 2}]
