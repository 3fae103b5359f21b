"""A run of an H-JEPA: its logs and exported encoders, its resumption, and settings that change no number."""

from pathlib import Path

import jaxtyping
import pytest
import torch
from rich.console import Console

from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.config.load import load_config
from jepa_pipeline.files import read_json_lines
from jepa_pipeline.models.stack import Stack
from jepa_pipeline.models.weights import load_encoder
from jepa_pipeline.training import callbacks
from jepa_pipeline.training.checkpoint import load_latest
from jepa_pipeline.training.loggers import HASHES

RECIPE = Path(__file__).parents[2] / "configs" / "debug" / "hjepa.yaml"
QUIET = Console(quiet=True)
SMALL = [
    "views.clip.stride=1",
    "optim={batch_size_global: 4, total_samples: 24, warmup_samples: 4}",
    "log={every_steps: 1, hashes_every_steps: 1}",
    "health.every_steps=3",
    "checkpoint.every_steps=2",
    "trainer.accelerator=cpu",
]


@pytest.fixture
def configure(videos, tmp_path):
    """Return a function from dotted overrides to the configuration of six steps of the debug recipe."""

    def make(*overrides):
        paths = [f"data.train={videos / 'train'}", f"output={tmp_path / 'runs'}"]
        return load_config(RECIPE, [*SMALL, *paths, *overrides])

    return make


def last(config):
    return load_latest(config.folder / "checkpoints", log=pytest.fail).state


def weights(config):
    return {name: value for name, value in last(config)["module"].items() if name.startswith("method.")}


def hashes(config):
    return read_json_lines(config.folder / HASHES)


def losses(config):
    return [row["loss"] for row in read_json_lines(config.folder / "metrics.jsonl") if "loss" in row]


def test_every_level_is_logged_and_exported(configure):
    config = configure()
    pretrain(config, QUIET)
    rows = read_json_lines(config.folder / "metrics.jsonl")
    trained, healthy = ([row for row in rows if key in row] for key in ("loss", "health/target_rankme"))
    for row in trained:
        assert row["loss"] == pytest.approx(row["level1/prediction"] + row["level2/weighted/prediction"], rel=1e-6)
    assert len(trained) == 6 and len(healthy) == 2 and all("level2/health/target_rankme" in row for row in healthy)
    exported, state = load_encoder(config.folder), weights(config)
    assert isinstance(exported, Stack)
    for number in range(2):
        target = f"method.levels.{number}.target."
        found = exported.encoders[number].state_dict()
        assert len(found) > 10 and all(torch.equal(value, state[target + name]) for name, value in found.items())


@pytest.mark.parametrize("detach", ["true", "false"])
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(configure, monkeypatch, detach):
    """Every hash is equal: batches with the masks of all levels, gradients, weights, targets, optimizer state."""
    choices = [f"method.levels.1.detach={detach}", "optim.accumulate_steps=2"]
    straight, killed = configure(*choices, "name=straight"), configure(*choices, "name=killed")
    pretrain(straight, QUIET)

    class Killed(Exception):
        pass

    original = callbacks.HealthMonitor.on_step

    def on_step(self, trainer, module):
        original(self, trainer, module)
        if module.step == 5:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.HealthMonitor, "on_step", on_step)
        with pytest.raises(Killed):
            pretrain(killed, QUIET)
    assert last(killed)["step"] == 4
    pretrain(killed, QUIET)
    expected = hashes(straight)
    assert len(expected) == 6 and hashes(killed) == expected
    assert {"batch.0.masks.0.context", "batch.1.masks.1.targets"} <= expected[0].keys()
    assert any("levels.1.target" in name for name in expected[0]) and losses(killed) == losses(straight)


def test_the_number_of_workers_and_accumulation_change_nothing(configure):
    """Except for the rounding of sums in parts."""
    eps = "optim.eps=1e-3"  # else AdamW would amplify the rounding of zero gradients to full steps
    reference, workers, accumulated = (configure(eps, f"name=run{n}") for n in range(3))
    workers = workers.model_copy(update={"data": workers.data.model_copy(update={"workers": 2})})
    accumulated = accumulated.model_copy(update={"optim": accumulated.optim.model_copy(update={"accumulate_steps": 2})})
    for config in (reference, workers, accumulated):
        pretrain(config, QUIET)
    expected, same, close = weights(reference), weights(workers), weights(accumulated)
    assert all(torch.equal(value, same[name]) for name, value in expected.items())
    assert all(torch.allclose(value, close[name], atol=2e-6, rtol=0) for name, value in expected.items())


def test_compiled_blocks_of_all_levels_train_the_same(configure, monkeypatch):
    """With a backend that runs the graph as it is, because the real compiler takes minutes."""
    compiled, compile = [], torch.nn.Module.compile

    def backend(graph, _):
        return graph.forward

    def compile_eagerly(self):
        compiled.append(self)
        compile(self, backend=backend)

    short = "optim.total_samples=8"
    plain, compiled_run = configure("name=plain", short), configure("name=compiled", short, "trainer.compile=true")
    pretrain(plain, QUIET)
    monkeypatch.setattr(torch.nn.Module, "compile", compile_eagerly)
    jaxtyping.config.update("jaxtyping_disable", True)  # shape checks cannot be compiled
    try:
        pretrain(compiled_run, QUIET)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
        torch.compiler.reset()
    assert len(compiled) == 2 * 2 + 1 + 2 * 1 + 1  # two encoders and a predictor of each level
    assert losses(compiled_run) == pytest.approx(losses(plain), rel=1e-5) and weights(compiled_run).keys() == weights(plain).keys()
