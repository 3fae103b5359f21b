"""Checkpoints are whole or not there, and the newest whole one is found."""

import json

import pytest
import torch

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.trainer import CheckpointConfig
from jepa_pipeline.training.checkpoint import About, clear_leftovers, load_last, save_checkpoint, step_of, steps


def save(folder, step, state=None, **config):
    about = About(step=step, samples=8 * step, version="0", data="d", config_hash="c", results={"optim.lr": 0.1})
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


def spoil_about(state):
    state.with_name("about.json").write_text('{"step": 2}')


@pytest.mark.parametrize("spoil", [truncate, flip, lose, spoil_about])
def test_a_damaged_one_is_passed_over_aloud(tmp_path, spoil):
    for step in (1, 2):
        save(tmp_path, step, {"step": step, "weights": torch.zeros(1000)})
    spoil(tmp_path / "step-00000002" / "state.pt")
    told = []
    assert load_last(tmp_path, tell=told.append).about.step == 1
    assert len(told) == 1 and "step-00000002 is damaged (" in told[0] and "going on from the checkpoint before it" in told[0]


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
