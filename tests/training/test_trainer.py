"""Lightning's Trainer uses what a run gives it, and nothing that happens to be installed or in the environment."""

import os
import sys

import pytest

from jepa_pipeline.config.trainer import TrainerConfig
from jepa_pipeline.training.processes import RankInfo
from jepa_pipeline.training.trainer import build_trainer
from lightning import Callback

ALONE = RankInfo(0, 1, 0, 1, "127.0.0.1", 0, launcher=None)


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A package that is only installed, with a callback for every Trainer."""
    folder = tmp_path / "stranger-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[lightning.pytorch.callbacks_factory]\nstranger = stranger_package:make\n")
    (tmp_path / "stranger_package.py").write_text("from lightning import Callback\ndef make():\n    return [Callback()]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "stranger_package"
    sys.modules.pop("stranger_package", None)


def build(own, log):
    return build_trainer(TrainerConfig(accelerator="cpu"), "cpu", ALONE, 3, 1, own, log)


def test_callbacks_of_installed_packages_are_named_and_not_even_imported(stranger):
    own, said = [Callback(), Callback()], []
    assert build(own, said.append).callbacks == own
    assert stranger not in sys.modules
    assert said == [
        "stranger offers Lightning a callback for every run (stranger_package:make), which is not used: a run has only its own"
    ]


def test_arguments_in_the_environment_are_named_and_not_used(monkeypatch):
    monkeypatch.setenv("PL_TRAINER_GRADIENT_CLIP_VAL", "0.001")
    monkeypatch.setenv("PL_TRAINER_LIMIT_TRAIN_BATCHES", "2")
    said = []
    trainer = build([], said.append)
    assert trainer.gradient_clip_val is None and trainer.limit_train_batches == 1.0
    assert sorted(text.split(" ")[0] for text in said) == ["PL_TRAINER_GRADIENT_CLIP_VAL=0.001", "PL_TRAINER_LIMIT_TRAIN_BATCHES=2"]
    assert os.environ["PL_TRAINER_LIMIT_TRAIN_BATCHES"] == "2"


def test_without_strangers_nothing_is_said():
    assert build([], pytest.fail).callbacks == []
