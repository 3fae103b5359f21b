"""A run folder belongs to one run: what would change its results is refused, in three columns."""

import shutil

import pytest
from rich.console import Console

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.run import FREE, RunConfig
from jepa_pipeline.pretrain import pretrain

QUIET = Console(quiet=True)


def test_a_changed_value_is_refused_in_three_columns(tiny):
    pretrain(tiny(), QUIET)
    with pytest.raises(UserError) as refused:
        pretrain(tiny("optim.lr=2e-3", "views.flip=0.5"), QUIET)
    lines = str(refused.value).splitlines()
    assert lines[0].endswith("tiny holds a run that differs from this one:")
    assert [line.split() for line in lines[1:4]] == [
        ["key", "there", "here"],
        ["optim.lr", "0.001", "0.002"],
        ["views.flip", "0.0", "0.5"],
    ]
    assert lines[4].startswith("choose another name, take the values back, or delete that folder") and "data.workers" in lines[4]


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
    from jepa_pipeline.config.load import dotted_keys

    return [key for key in dotted_keys(RunConfig) if key.startswith(FREE)]


def test_every_free_key_is_a_key():
    for name in FREE:
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
    with pytest.raises(UserError, match=r"3 x [0-9a-f]{12} \+ 1 x [0-9a-f]{12} +2 x "):
        pretrain(mixed(2), QUIET)


def test_leftovers_of_a_killed_run_are_removed(tiny):
    config = tiny()
    (config.folder / "checkpoints/step-00000001.partial").mkdir(parents=True)
    (config.folder / "checkpoints/step-00000001.partial/state.pt").write_bytes(b"half")
    pretrain(config, QUIET)
    assert not list((config.folder / "checkpoints").glob("*.partial"))


def test_two_processes_never_train_in_one_folder(tiny, monkeypatch):
    from jepa_pipeline.training.folder import claimed

    monkeypatch.setattr("jepa_pipeline.training.folder.CLAIM_S", 0.2)
    config = tiny()
    with claimed(config), pytest.raises(UserError, match=r"another process is training in .*tiny: wait for it or stop it"):
        pretrain(config, QUIET)
    pretrain(config, QUIET)
