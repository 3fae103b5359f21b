"""Checkpoints are whole or not there, and the newest whole one is found."""

import json

import pytest
import torch

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.trainer import CheckpointConfig
from jepa_pipeline.training.checkpoint import About, clear_leftovers, load_last, save_checkpoint, step_of, steps


def save(folder, step, state=None, **config):
    names = {"version": "0", "torch": "2", "device": "cpu", "data": "d", "config_hash": "c"}
    about = About(step=step, samples=8 * step, results={"optim.lr": 0.1}, **names)
    return save_checkpoint(folder, state or {"step": step}, about, CheckpointConfig(**config))


def kept(folder):
    return [step_of(path) for path in steps(folder)]


def newest(folder):
    return load_last(folder, tell=pytest.fail).state


def test_what_is_saved_is_what_is_loaded(tmp_path):
    state = {"step": 3, "module": {"weight": torch.randn(5), "_extra_state": {"sums": {"loss": torch.tensor(1.5)}, "counts": {}}}}
    save(tmp_path, 3, state)
    loaded = load_last(tmp_path, tell=pytest.fail)
    assert torch.equal(loaded.state["module"]["weight"], state["module"]["weight"])
    assert (loaded.about.step, loaded.about.samples, loaded.about.results) == (3, 24, {"optim.lr": 0.1})
    assert load_last(tmp_path / "none", tell=pytest.fail) is None


def test_the_pointer_names_the_newest_but_is_not_needed(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    assert json.loads((tmp_path / "last" / "about.json").read_text())["step"] == 2
    (tmp_path / "last").unlink()
    assert newest(tmp_path) == {"step": 2}


def test_old_ones_are_dropped_save_for_those_that_are_kept_for_ever(tmp_path):
    for step in range(1, 9):
        save(tmp_path, step, keep_last=2, keep_every=3)
    assert kept(tmp_path) == [3, 6, 7, 8]
    for step in range(9, 12):
        save(tmp_path, step, keep_last=1)
    assert kept(tmp_path) == [11]


def truncate(state):
    state.write_bytes(state.read_bytes()[:500])


def flip(state):
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)


def lose(state):
    state.unlink()


def lose_about(state):
    state.with_name("about.json").unlink()


def spoil_about(state):
    state.with_name("about.json").write_text('{"step": 2}')


@pytest.mark.parametrize("spoil", [truncate, flip, lose, lose_about, spoil_about])
def test_a_damaged_one_is_passed_over_aloud(tmp_path, spoil):
    for step in (1, 2):
        save(tmp_path, step, {"step": step, "weights": torch.zeros(1000)})
    spoil(tmp_path / "step-00000002" / "state.pt")
    told = []
    assert load_last(tmp_path, tell=told.append).about.step == 1
    assert (
        len(told) == 1
        and "step-00000002 is damaged (" in told[0]
        and "set aside, going on from the checkpoint before it" in told[0]
    )


def test_a_damaged_one_never_counts_as_the_newest_again(tmp_path):
    """Else the next one that is saved, of an earlier step, would be dropped as the oldest."""
    for step in (10, 20, 30):
        save(tmp_path, step, keep_last=3)
    for step in (20, 30):
        truncate(tmp_path / f"step-{step:08d}" / "state.pt")
    assert load_last(tmp_path, tell=lambda _: None).about.step == 10
    save(tmp_path, 12, keep_last=1)
    assert kept(tmp_path) == [12] and newest(tmp_path) == {"step": 12} and (tmp_path / "last").resolve().name == "step-00000012"
    assert {path.name for path in tmp_path.glob("*.damaged")} == {"step-00000020.damaged", "step-00000030.damaged"}


def test_a_users_copy_is_left_alone(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "step-00000001").rename(tmp_path / "step-00000001.bak")
    for step in (2, 3, 4):
        save(tmp_path, step, keep_last=1, keep_every=10)
    assert kept(tmp_path) == [4] and (tmp_path / "step-00000001.bak").exists()


def test_when_all_are_damaged_nothing_is_started_anew_behind_the_users_back(tmp_path):
    for step in (1, 2):
        truncate(save(tmp_path / "run" / "checkpoints", step) / "state.pt")
    with pytest.raises(
        UserError, match=r"step-00000001 is damaged \(.*no other is left: copy one back, or delete .*run to start anew"
    ):
        load_last(tmp_path / "run" / "checkpoints", tell=lambda _: None)


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was run",))

    save(tmp_path, 1)
    save(tmp_path, 2, {"step": Bomb()})
    told = []
    assert load_last(tmp_path, tell=told.append).about.step == 1
    assert "step-00000002 is damaged" in told[0]


def test_a_full_disk_leaves_the_one_before(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(state, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(UserError, match="No space left on device; the ones before it are whole"):
            save(tmp_path, 2)
    assert newest(tmp_path) == {"step": 1} and kept(tmp_path) == [1]
    assert {path.name for path in tmp_path.iterdir()} == {"last", "step-00000001"}


def test_what_torch_makes_of_a_full_disk_is_still_a_full_disk(tmp_path):
    """Its writer turns the error of the file below it into one of its own."""
    import resource

    save(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(UserError, match="File too large; the ones before it are whole"):
            save(tmp_path, 2, {"step": 2, "weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.name for path in tmp_path.iterdir()} == {"last", "step-00000001"}


@pytest.mark.parametrize("victim", ["mkdir", "save", "fsync", "rename", "symlink_to", "rmtree"])
def test_killed_anywhere_in_a_save_the_folder_stays_readable(tmp_path, monkeypatch, victim):
    """A kill is an exception nobody handles; what it leaves is removed at the next start and never taken for a checkpoint."""
    import os
    import shutil
    from pathlib import Path

    class Killed(BaseException):
        pass

    def die(*_, **__):
        raise Killed

    save(tmp_path, 1, keep_last=1)
    owner = {"mkdir": Path, "rename": Path, "symlink_to": Path, "save": torch, "fsync": os, "rmtree": shutil}[victim]
    with monkeypatch.context() as patch:
        patch.setattr(owner, victim, die)
        with pytest.raises(Killed):
            save(tmp_path, 2, keep_last=1)
    assert newest(tmp_path)["step"] in (1, 2)
    clear_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"last", "step-00000001", "step-00000002"}
    assert (tmp_path / "last").resolve().is_dir()
    save(tmp_path, 2, keep_last=1)
    assert kept(tmp_path) == [2]
