"""The run folder is written, measured and left as it was; the size of a checkpoint is estimated well."""

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from jepa_pipeline.checks import storage
from jepa_pipeline.checks.checkpoint_size import estimate_checkpoint_bytes
from jepa_pipeline.checks.storage import check_storage
from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config

RECIPES = Path(__file__).parents[2] / "configs"
Usage = namedtuple("Usage", "total used free")


def run(config, checkpoint=10_000_000, folder=None):
    report = check_storage(folder or config.folder, config.checkpoint, checkpoint, quick=True)
    return {result.name: result for result in report.results}


@pytest.mark.parametrize("optim", [[], ["optim.name=sgd", "optim.lr=0.01"], ["optim.name=lars", "optim.lr=0.01"]])
def test_the_bytes_of_a_checkpoint_are_those_it_will_have(tiny, optim):
    config = tiny("trainer.devices=1", "optim.total_samples=16", "optim.warmup_samples=0", *optim)
    pretrain(config)
    (checkpoint,) = [path for path in (config.folder / "checkpoints").glob("step-*") if path.is_dir()]
    real = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    assert estimate_checkpoint_bytes(config) == pytest.approx(real, rel=0.05)


def test_the_largest_recipe_is_counted_without_its_memory():
    config = load_config(RECIPES / "ijepa_vith14.yaml", ["data.train=x"])
    assert 10e9 < estimate_checkpoint_bytes(config) < 11.5e9


def test_an_unknown_network_of_timm_is_a_users_mistake():
    config = load_config(RECIPES / "simclr_resnet50.yaml", ["data.train=x", "method.encoder.timm=resnet51"])
    with pytest.raises(UserError, match="resnet51"):
        estimate_checkpoint_bytes(config)


def test_a_good_folder_is_fine_and_left_as_it_was(tiny, tmp_path):
    results = run(tiny())
    assert list(results) == ["run folder", "renames", "clock", "space", "write speed"]
    assert {result.level for result in results.values()} == {"ok"}
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs/tiny").mkdir(parents=True)
    run(tiny())
    assert list((tmp_path / "runs").rglob("*")) == [tmp_path / "runs/tiny"]


def test_a_folder_that_cannot_be_written_is_a_failure(tiny, tmp_path, monkeypatch):
    (tmp_path / "runs").write_text("a file where a folder is to be")
    assert run(tiny())["run folder"].level == "fail"
    (tmp_path / "runs").unlink()

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(storage.tempfile, "mkdtemp", refuse)
    result = run(tiny())["run folder"]
    assert result.level == "fail" and "Read-only file system" in result.text and "output=" in result.cure
    assert not (tmp_path / "runs").exists()


def test_a_disk_that_fills_up_while_it_is_measured_is_a_failure(tiny, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage.os, "fsync", full)
    assert "No space left" in run(tiny())["run folder"].text
    assert not (tmp_path / "runs").exists()


def test_a_file_system_that_does_not_rename_is_a_failure(tiny, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "rename", refuse)
    result = run(tiny())["renames"]
    assert result.level == "fail" and "Operation not permitted" in result.text and "POSIX" in result.cure


@pytest.mark.parametrize(("free", "level"), [(29e6, "fail"), (31e6, "ok")])
def test_room_is_needed_for_all_checkpoints_that_are_kept(tiny, monkeypatch, free, level):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1e12, 0, int(free)))
    result = run(tiny("checkpoint.keep_last=2"))["space"]
    assert result.level == level and "10 MB" in result.text and "30 MB" in result.text


def test_checkpoints_that_are_there_count_as_room(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1e12, 0, int(20e6)))
    assert run(tiny())["space"].level == "fail"
    folder = tmp_path / "runs/tiny/checkpoints/step-00000003"
    folder.mkdir(parents=True)
    with (folder / "state.pt").open("wb") as file:
        file.truncate(11_000_000)
    assert run(tiny())["space"].level == "ok"


def test_a_disk_too_slow_to_leave_in_time_is_a_failure(tiny):
    result = run(tiny(), checkpoint=10**14)["write speed"]
    assert result.level == "fail" and "killed 120 s after a stop signal" in result.text and "output=FOLDER" in result.cure


@pytest.mark.parametrize(("skew", "words"), [(100.0, "100 s ahead"), (-100.0, "100 s behind")])
def test_a_clock_that_is_off_is_a_warning(tiny, monkeypatch, skew, words):
    now = storage.time.time
    monkeypatch.setattr(storage.time, "time", lambda: now() - skew)
    result = run(tiny())["clock"]
    assert result.level == "warn" and words in result.text
