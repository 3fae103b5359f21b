"""A file of features that is ended at any moment: the same command finishes it, with the bytes of one that was left alone."""

import errno
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from jepa_pipeline.config.errors import UserError, disk_error
from jepa_pipeline.probes.feature_file import check_file, write_features
from jepa_pipeline.probes.feature_rows import Row
from jepa_pipeline.probes.unfinished_features import unfinished_features, unfinished_folder, written_files

PLAN = {"encoder": "a", "batch_size": 2}
METADATA = {"data": {"classes": ["cat", "dog"]}}
BATCHES = [
    ([Row("0", 0, None), Row("1", 1, "it is damaged")], np.float32([[0.5, 1.5]])),
    ([Row("2", 1, None)], np.float32([[2.5, -1.0]])),
]
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
"""Audit events of Python before the calls that change a folder, beside opening a file to write it."""


def make(out, plan=PLAN):
    """What `jepa embed` does around the network."""
    check_file(out)
    with unfinished_features(out, plan) as unfinished:
        if not unfinished.complete:
            for rows, features in BATCHES[-(-unfinished.rows.done // 2) :]:
                unfinished.rows.add(rows, features)
        if not (unfinished.complete or unfinished.staged):
            with unfinished.stage() as path:
                write_features(path, unfinished.rows, METADATA)
        unfinished.publish()
    return unfinished.rows.done, unfinished.rows.width


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def end_at(moment, how, out):
    """Make a file in another process, which is ended before a call that changes a folder; return whether it finished before."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    calls = 0

    def audit(event, arguments):
        nonlocal calls
        if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            calls += 1
            if calls == moment and how == "killed":
                os._exit(9)
            if calls == moment:
                raise KeyboardInterrupt

    try:
        sys.stdout = sys.stderr = io.StringIO()
        sys.addaudithook(audit)
        make(out)
    except BaseException:
        os._exit(1)
    os._exit(0)


@pytest.mark.parametrize(("suffix", "how"), [(".npy", "killed"), (".npy", "interrupted"), (".parquet", "killed")])
def test_the_same_command_finishes_what_was_ended_at_any_moment(tmp_path, monkeypatch, suffix, how):
    """Above all between two renames of finished files, and between the last rename and the end of the folder."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the machine goes on, and waiting for the disk is slow
    (tmp_path / "whole").mkdir()
    assert make(tmp_path / f"whole/x{suffix}") == (3, 2)
    whole, moment, finished, seen = content(tmp_path / "whole"), 0, False, set()
    while not finished:
        moment += 1
        folder = tmp_path / f"{moment}"
        folder.mkdir()
        out = folder / f"x{suffix}"
        finished = end_at(moment, how, out)
        partial = unfinished_folder(out)
        seen.add(frozenset(path.name for path in folder.iterdir()))
        if finished or (out.exists() and not any(partial.iterdir())):  # all is done: only an empty folder may be left
            with pytest.raises(UserError, match="is there already: delete it"):
                make(out)
            partial.rmdir() if not finished else None
        else:
            assert make(out) == (3, 2)
        assert content(folder) == whole
    names = [path.name for path in reversed(written_files(tmp_path / f"x{suffix}"))]
    assert seen >= {frozenset([*names[:count], partial.name]) for count in range(len(names) + 1)}


def end_before_last_rename(tmp_path, monkeypatch):
    """Leave x.json and x.jsonl in their places, and x.npy behind."""
    original = Path.rename

    def rename(path, target):
        if path.name == "x.npy":
            raise KeyboardInterrupt
        return original(path, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "rename", rename)
        make(tmp_path / "x.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.jsonl", "x.npy.partial"]


def test_a_file_that_is_lost_meanwhile_is_written_again(tmp_path, monkeypatch):
    end_before_last_rename(tmp_path, monkeypatch)
    before = (tmp_path / "x.json").read_bytes()
    (tmp_path / "x.json").unlink()
    (tmp_path / "x.npy.partial/staged/x.npy").write_bytes(b"half")
    make(tmp_path / "x.npy")
    assert (tmp_path / "x.json").read_bytes() == before and np.load(tmp_path / "x.npy").shape == (3, 2)


def test_a_file_that_somebody_else_put_there_meanwhile_is_kept(tmp_path, monkeypatch):
    end_before_last_rename(tmp_path, monkeypatch)
    (tmp_path / "x.json").write_text("another")
    with pytest.raises(UserError, match=r"x.npy would replace [^ ]*x.json: delete or move what is there"):
        make(tmp_path / "x.npy")
    assert (tmp_path / "x.json").read_text() == "another"
    (tmp_path / "x.json").unlink()
    assert make(tmp_path / "x.npy") == (3, 2)


def test_another_command_keeps_the_files_of_one_that_was_ended(tmp_path, monkeypatch):
    end_before_last_rename(tmp_path, monkeypatch)
    before = content_below(tmp_path)
    with pytest.raises(
        UserError, match=r"x.jsonl, .*x.json and .*partial are of an interrupted command that differs in batch_size: "
    ):
        make(tmp_path / "x.npy", {**PLAN, "batch_size": 4})
    assert content_below(tmp_path) == before
    assert make(tmp_path / "x.npy") == (3, 2)


def content_below(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_what_killed_processes_left_beside_it_is_deleted(tmp_path):
    """But not what another command keeps to continue with, by whatever name."""
    for name in ("x.npy.k3_9abcd.partial/x.npy", "x.json.k3_9abcd.partial/x.json", "x.npy.finished.partial/.plan.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    make(tmp_path / "x.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.jsonl", "x.npy", "x.npy.finished.partial"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_to_the_last_byte(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", refuse)
    with pytest.raises(OSError, match=r"x\.npy") as refused:
        make(tmp_path / "x.npy")
    assert str(disk_error(refused.value)).startswith(f"{tmp_path / 'x.npy'} could not be written ({os.strerror(number)})")
    monkeypatch.undo()
    assert make(tmp_path / "x.npy") == (3, 2)
