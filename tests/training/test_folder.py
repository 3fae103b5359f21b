"""A run folder belongs to one run: what would change its results is refused, in three columns."""

import fcntl
import json
import os
import shutil
import socket
from contextlib import ExitStack
from pathlib import Path
from threading import Timer

import pytest
import torch
from rich.console import Console

from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.run import RESULT_NEUTRAL_KEYS, RunConfig
from jepa_pipeline.training.checkpoint import latest_info
from jepa_pipeline.training.restarts import COUNT
from jepa_pipeline.training.run_folder import compare, lock_run_folder

QUIET = Console(quiet=True)


def test_a_changed_value_is_refused_in_three_columns(tiny):
    pretrain(tiny(), QUIET)
    with pytest.raises(UserError) as refused:
        pretrain(tiny("optim.lr=2e-3", "views.crops=[{flip: 0.5}]"), QUIET)
    lines = str(refused.value).splitlines()
    assert lines[0].endswith("tiny holds a run that differs from this one:")
    assert [line.split() for line in lines[1:4]] == [
        ["key", "there", "here"],
        ["optim.lr", "0.001", "0.002"],
        ["views.crops.0.flip", "0.0", "0.5"],
    ]
    assert lines[4].startswith("choose another name, restore the values, or delete that folder") and "data.workers" in lines[4]


def test_removed_and_renamed_keys_of_an_earlier_version_are_no_differences(tiny):
    config = tiny("views.crops=[{gray: 0.2}]")
    pretrain(config, QUIET)
    info = latest_info(config.folder / "checkpoints")
    results = {key: value for key, value in info.results.items() if key != "views.crops.0.gray"}
    results |= {"views.crops.0.grey": 0.2, "data.window_shards": 16, "health.vectors": 2048, "views.largest_side": 640}
    assert compare(info.model_copy(update={"results": results}), info) == []
    results |= {"views.crops.0.grey": 0.5, "data.window_shards": 8}
    assert compare(info.model_copy(update={"results": results}), info) == [
        ("data.window_shards", "8", "None"),
        ("views.crops.0.gray", "0.5", "0.2"),
    ]


def test_a_key_that_an_earlier_version_did_not_have_is_no_difference_at_its_value(tiny):
    config = tiny("views.interpolation=bilinear")
    pretrain(config, QUIET)
    info = latest_info(config.folder / "checkpoints")
    assert "views.antialias" not in info.results
    assert compare(info.model_copy(update={"results": info.results | {"views.antialias": True}}), info) == []
    results = {key: value for key, value in info.results.items() if key != "views.interpolation"}
    assert compare(info.model_copy(update={"results": results}), info) == [("views.interpolation", "bicubic", "bilinear")]


def test_the_lock_is_the_checkpoints_own_and_not_a_file_that_may_be_edited(tiny):
    config = tiny()
    pretrain(config, QUIET)
    for name in ("config.yaml", "environment.json"):
        (config.folder / name).unlink()
    with pytest.raises(UserError, match=r"seed +0 +1"):
        pretrain(tiny("seed=1"), QUIET)


def test_what_cannot_change_results_may_change(tiny):
    pretrain(tiny(), QUIET)
    free = [
        "log.every_steps=3",
        "data.workers=1",
        "data.prefetch_batches=2",
        "data.damage.limit=0.5",
        "data.cache.limit_gb=1",
        "health.every_steps=5",
        "checkpoint.keep_last=1",
        "checkpoint.every_minutes=null",
    ]
    pretrain(tiny(*free), QUIET)
    assert {assignment.split("=")[0] for assignment in free} <= set(keys_of_the_free_list())


def keys_of_the_free_list():
    from jepa_pipeline.config.parse import dotted_keys

    return [key for key in dotted_keys(RunConfig) if key.startswith(RESULT_NEUTRAL_KEYS)]


def test_every_free_key_is_a_key():
    for name in RESULT_NEUTRAL_KEYS:
        assert any(key.startswith(name) for key in keys_of_the_free_list()), name


def test_other_data_is_refused_and_the_same_data_elsewhere_is_not(tiny, shards, tmp_path):
    pretrain(tiny(), QUIET)
    shutil.copytree(shards / "train", tmp_path / "moved")
    pretrain(tiny(f"data.train={tmp_path / 'moved'}"), QUIET)
    with pytest.raises(UserError, match=r"data.train \(hash\) +[0-9a-f]{12} +[0-9a-f]{12}"):
        pretrain(tiny(f"data.train={shards / 'test'}"), QUIET)


def test_other_weights_of_a_mixture_are_refused(tiny, shards):
    def mixed(weight):
        return tiny(f"data.train=[{{path: {shards / 'train'}, weight: {weight}}}, {shards / 'test'}]")

    pretrain(mixed(3), QUIET)
    with pytest.raises(UserError, match=r"3.0 x [0-9a-f]{12} \+ 1.0 x [0-9a-f]{12} +2.0 x "):
        pretrain(mixed(2), QUIET)


def test_leftovers_of_a_killed_run_are_removed(tiny):
    config = tiny()
    (config.folder / "checkpoints/step-00000001.partial").mkdir(parents=True)
    (config.folder / "checkpoints/step-00000001.partial/state.pt").write_bytes(b"half")
    pretrain(config, QUIET)
    assert not list((config.folder / "checkpoints").glob("*.partial"))


def test_two_processes_never_train_in_one_folder(tiny, monkeypatch):
    monkeypatch.setattr("jepa_pipeline.locks.LOCK_TIMEOUT_S", 0.2)
    config = tiny()
    with (
        lock_run_folder(config.folder),
        pytest.raises(UserError, match=r"another process is training in .*tiny: wait for it or stop it"),
    ):
        pretrain(config, QUIET)
    pretrain(config, QUIET)


def test_a_living_owner_is_named_without_waiting(tiny, monkeypatch):
    monkeypatch.setattr("jepa_pipeline.locks.LOCK_TIMEOUT_S", float("inf"))
    config = tiny()
    with lock_run_folder(config.folder), pytest.raises(UserError, match=rf"stop it \(process {os.getpid()} on "):
        pretrain(config, QUIET)


def test_what_is_left_of_a_killed_run_is_waited_for_with_a_word(tiny, monkeypatch):
    """Data workers hold the lock until they notice that the process is gone."""
    monkeypatch.setattr("jepa_pipeline.locks.QUIET_S", 0.0)
    monkeypatch.setattr("jepa_pipeline.locks.LOCK_TIMEOUT_S", 0.3)
    run, said = tiny().folder, []
    run.mkdir(parents=True)
    with (run / ".lock").open("w") as file:
        file.write(f"{socket.gethostname()} {2**22 + 1}\n")  # above the largest number of a process
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is training"), lock_run_folder(run, said.append):
            pass
    assert said == [f"{run} is locked by process {2**22 + 1} on {socket.gethostname()}: waiting up to 0.3 s for what is left of it"]
    with lock_run_folder(run, pytest.fail):
        assert (run / ".lock").read_text() == f"{socket.gethostname()} {os.getpid()}\n"


def test_after_a_restart_in_place_the_process_before_is_waited_for(tiny, monkeypatch):
    """torchrun may start rank 0 on one machine while it ends the former one on another, or beside it."""
    monkeypatch.setenv(COUNT, "1")
    run, said = tiny().folder, []
    with ExitStack() as before:
        before.enter_context(lock_run_folder(run))
        (run / "config.yaml").touch()
        Timer(1.2, before.pop_all().close).start()
        with lock_run_folder(run, said.append):
            pass
    assert len(said) == 1 and "waiting up to 120 s" in said[0]


def edit_about(config, **values):
    for path in (config.folder / "checkpoints").glob("step-*/about.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_another_device_is_another_run(tiny):
    """auto may find a GPU today and none tomorrow."""
    config = tiny("trainer.accelerator=auto")
    pretrain(config, QUIET)
    edit_about(config, device="cuda" if not torch.cuda.is_available() else "cpu")
    with pytest.raises(UserError, match=r"trainer.accelerator \(found\) +\w+ +\w+"):
        pretrain(config, QUIET)


def test_another_torch_is_said(tiny):
    config, console = tiny(), Console(record=True, width=300)
    pretrain(config, QUIET)
    edit_about(config, torch="1.0")
    pretrain(config, console)
    assert f"was trained with torch 1.0, this is {torch.__version__}: results may differ in the last bits" in console.export_text()


def test_nothing_is_written_into_a_folder_that_is_refused(tiny):
    config = tiny()
    pretrain(config, QUIET)
    before = (config.folder / "config.yaml").read_text()
    for path in (config.folder / "checkpoints").glob("step-*/state.pt"):
        path.write_bytes(b"")
    for path in (config.folder / "checkpoints").glob("step-*/about.json"):
        path.unlink()
    with pytest.raises(UserError, match="no other is left: copy one back"):
        pretrain(tiny("seed=9"), QUIET)
    assert (config.folder / "config.yaml").read_text() == before


def test_a_run_folder_stands_for_its_own_configuration_wherever_it_is(tiny, tmp_path):
    config = tiny("checkpoint.every_steps=2")
    pretrain(config, QUIET)
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    config.folder.rename(moved)
    for path in (moved / "checkpoints").glob("*6"):
        shutil.rmtree(path)
    again = load_config(moved)
    assert again.folder == moved and again.hash() == config.hash()
    pretrain(again, QUIET)
    assert latest_info(again.folder / "checkpoints").step == 6
    with pytest.raises(UserError, match=r"is a folder without a config.yaml: give a recipe or a run folder"):
        load_config(tmp_path)


DEBUG = Path(__file__).parents[2] / "configs" / "debug"


def test_a_refused_start_leaves_no_folder(shards, tmp_path):
    overrides = [f"data.train={shards / 'train'}", f"output={tmp_path}", "method.encoder.timm=resnet81"]
    with pytest.raises(UserError, match="timm has no network 'resnet81'"):
        pretrain(load_config(DEBUG / "vicreg.yaml", overrides), QUIET)
    assert not (tmp_path / "debug_vicreg").exists()


def test_a_run_says_what_it_does_with_its_batches_and_when_it_is_finished(shards, tmp_path):
    overrides = [
        f"data.train={shards / 'train'}",
        f"output={tmp_path}",
        "optim.accumulate_steps=4",
        "optim.total_samples=64",
        "optim.warmup_samples=0",
    ]
    config, console = load_config(DEBUG / "vicreg.yaml", overrides), Console(record=True, width=300)
    pretrain(config, console)
    assert "peak lr 0.001" in (text := console.export_text()) and "vicreg and batch norm compare 8 images instead of 32" in text
    pretrain(config, console)
    assert "is already finished at step 2; nothing to do" in console.export_text()
