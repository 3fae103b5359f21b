"""Whole runs on several processes: the same losses and weights as in one, and a run goes on under any other number and strategy."""

import json
import os
import signal
import time
from contextlib import suppress
from functools import cache, partial

import pytest
import torch

from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.files import read_json_lines
from jepa_pipeline.training import signals
from jepa_pipeline.training.checkpoint import load_info, load_latest
from jepa_pipeline.training.checkpoint_callback import CheckpointCallback
from jepa_pipeline.training.hashes import flatten
from jepa_pipeline.training.loggers import HASHES
from jepa_pipeline.training.module import Pretraining
from jepa_pipeline.training.requeue import read_job_ends
from jepa_pipeline.training.restarts import COUNT, LIMIT
from jepa_pipeline.training.signals import StopRequested

SGD = "optim={name: sgd, lr: 0.001, batch_size_global: 8, total_samples: 40, clip_norm: 1.0, weight_decay: 0.01}"
"""Under AdamW the last bits of a gradient near zero decide the whole of a step."""
BACKBONE = "{timm: resnet18, image_size: 16, args: {channels: [4, 4, 8, 8], layers: [1, 1, 1, 1], zero_init_last: false}}"
HEAD = "{hidden: [16], out: 12}"
METHODS = {
    "ijepa": ["method.regularizer={name: vicreg, weight: 0.04}"],
    "vjepa": [
        "method={name: vjepa, encoder: {image_size: 16, patch_size: 8, frames: 4, tubelet_size: 2, embed_dim: 24, depth: 2, num_heads: 2},"
        " predictor: {embed_dim: 16, depth: 1, num_heads: 2}, masks: [{name: blocks, num_blocks: 2, scale: [0.25, 0.25]}]}",
        "views.clip.stride=1",
    ],
    "hjepa": [
        "method={name: hjepa, levels: [{encoder: {image_size: 16, patch_size: 8, frames: 4, tubelet_size: 2, attention: causal,"
        " embed_dim: 24, depth: 2, num_heads: 2}, predictor: {embed_dim: 16, depth: 1, num_heads: 2}, task: {name: masked, masks:"
        " [{name: blocks, num_blocks: 2, scale: [0.25, 0.25]}]}}, {encoder: {stride: {space: 2}, embed_dim: 16, depth: 1,"
        " num_heads: 2}, predictor: {embed_dim: 16, depth: 1, num_heads: 2}, task: {name: forward}, detach: false}]}",
        "views.clip.stride=1",
    ],
    "vicreg": [f"method={{name: vicreg, encoder: {BACKBONE}, projector: {HEAD}}}", "views.crops=[{count: 2}]"],
    "swav": [
        f"method={{name: swav, encoder: {BACKBONE}, projector: {HEAD}, prototypes: 10, frozen_steps: 1}}",
        "views.crops=[{count: 2}]",
    ],
    "byol": [
        f"method={{name: byol, encoder: {BACKBONE}, projector: {HEAD}, predictor: {HEAD}}}",
        "views.crops=[{count: 2}]",
    ],
}
LOGGED = ["log.every_steps=1", "health.every_steps=5"]


@pytest.fixture
def on_processes(run_ranks):
    """A function that runs a configuration on so many processes, as torchrun would have started them; their exit codes."""

    def run(config, world, before=lambda: None):
        def work(rank):
            before()
            pretrain(config)

        return run_ranks(work, world)

    return run


def complete(make, videos, method, *overrides):
    """Return the configuration of a method's run, by what makes one of overrides."""
    data = [f"data.train={videos / 'train'}"] if method in ("vjepa", "hjepa") else []
    return make(*METHODS[method], SGD, *LOGGED, *data, *overrides)


@pytest.fixture
def configure(tiny, videos):
    return partial(complete, tiny, videos)


def losses(config):
    return [row["loss"] for row in read_json_lines(config.folder / "metrics.jsonl") if "loss" in row]


def weights(config):
    return load_latest(config.folder / "checkpoints", log=pytest.fail).state["module"]


@pytest.fixture(scope="module")
def alone(tiny_below, videos, tmp_path_factory):
    """A function that returns the configuration of a method's run on one process, which runs once."""

    @cache
    def run(method):
        config = complete(partial(tiny_below, tmp_path_factory.mktemp("alone")), videos, method)
        pretrain(config)
        return config

    return run


UNDER_DDP = {"ijepa": (), "byol": (), **dict.fromkeys(("vjepa", "hjepa", "vicreg", "swav"), pytest.mark.slow)}
"""How a run is whole under DDP depends on the method less than under FSDP2, under which all run."""


@pytest.mark.parametrize(
    ("method", "strategy"),
    [
        *((method, "fsdp2") for method in METHODS),
        *(pytest.param(method, "ddp", marks=marks) for method, marks in UNDER_DDP.items()),
    ],
)
def test_a_run_on_two_processes_is_the_run_on_one(method, strategy, alone, configure, on_processes):
    shared, alone = configure(method, "name=shared", f"trainer.strategy={strategy}"), alone(method)
    assert on_processes(shared, 2) == [0, 0]
    assert len(losses(alone)) == 5 and losses(alone)[0] != losses(alone)[-1]
    # batch norm over eight images, and SwAV's scores over a temperature of 0.1, make more of fp32's last bits; in float64 all
    # methods agree to 1e-6 (test_methods_on_ranks.py)
    assert losses(shared) == pytest.approx(losses(alone), **({"abs": 1e-6} if "jepa" in method else {"rel": 1e-5}))
    expected = weights(alone)
    for name, value in weights(shared).items():
        if isinstance(value, torch.Tensor):
            assert torch.allclose(value.float(), expected[name].float(), atol=1e-6, rtol=1e-5), name


@pytest.mark.parametrize(("method", "positions"), [("vjepa", "encoder"), ("hjepa", "levels.0.encoder")])
def test_bf16_dealt_out_is_bf16_of_whole_copies(method, positions, configure, on_processes):
    """But for the weights of the norms, which are gathered in bf16 too; positions, among them rotary ones, are not."""
    for strategy in ("ddp", "fsdp2"):
        half = [f"name={strategy}", f"trainer.strategy={strategy}", "trainer.precision=bf16", "trainer.checkpoint_activations=true"]
        config = configure(method, *half, f"method.{positions}.positions=rope")
        assert on_processes(config, 2) == [0, 0]
        if strategy == "ddp":
            expected = losses(config)
    assert losses(config) == pytest.approx(expected, rel=2e-3) and losses(config) != expected


def test_a_sharded_run_goes_on_anywhere(configure, on_processes):
    """Saved by two, continued by one, by four, and under DDP: the same next losses."""
    longer = "optim.total_samples=120"
    begun = configure("ijepa", "trainer.strategy=fsdp2", longer, "checkpoint={every_steps: 5, keep_last: 100, background: false}")
    assert on_processes(begun, 2) == [0, 0]
    expected = losses(begun)[5:]
    ways = {"one": (1, "auto"), "one_sharded": (1, "fsdp2"), "ddp": (2, "ddp"), "four": (4, "fsdp2"), "groups": (4, "hsdp")}
    for name, (world, strategy) in ways.items():
        config = configure("ijepa", f"name={name}", f"trainer.strategy={strategy}", longer)
        kept = config.folder / "checkpoints" / "step-00000005"
        kept.parent.mkdir(parents=True)
        os.system(f"cp -r {begun.folder / 'checkpoints' / kept.name} {kept}")
        if strategy == "auto":
            pretrain(config)
        else:
            assert on_processes(config, world) == [0] * world
        assert losses(config) == pytest.approx(expected, abs=1e-6), name
        assert read_json_lines(config.folder / "metrics.jsonl")[0]["step"] == 6


@pytest.mark.parametrize(
    ("method", "strategy"), [("ijepa", "ddp"), ("ijepa", "fsdp2"), pytest.param("hjepa", "fsdp2", marks=pytest.mark.slow)]
)
def test_killed_and_continued_it_is_the_run_left_alone(method, strategy, configure, on_processes, monkeypatch):
    """Bit for bit, in all that is saved and logged."""

    def make(name):
        return configure(
            method, f"name={name}", f"trainer.strategy={strategy}", "log.hashes_every_steps=1", "optim.total_samples=64",
            "optim.accumulate_steps=2", "checkpoint={every_steps: 2}", "data.workers=1",
        )  # fmt: skip

    def kill_after_five():
        original = CheckpointCallback.on_step

        def on_step(self, trainer, module):
            original(self, trainer, module)
            if module.step == 5:
                os._exit(9)

        CheckpointCallback.on_step = on_step

    straight, killed = make("straight"), make("killed")
    assert on_processes(straight, 2) == [0, 0]
    assert on_processes(killed, 2, kill_after_five) == [9, 9]
    monkeypatch.setenv(COUNT, "1")  # as torchrun and our own launcher start them again
    monkeypatch.setenv(LIMIT, "1")
    assert on_processes(killed, 2) == [0, 0]
    assert [(end.in_place, end.saved) for end in read_job_ends(killed.folder)] == [(1, 4)]
    expected = read_json_lines(straight.folder / HASHES)
    assert len(expected) == 8 and read_json_lines(killed.folder / HASHES) == expected
    assert len({load_info(run.folder / "checkpoints/last").sha256 for run in (straight, killed)}) == 1
    timings = {"seconds", "samples_per_s", "data_wait_share"}
    for one, other in zip(*(read_json_lines(run.folder / "metrics.jsonl") for run in (straight, killed)), strict=True):
        assert {**one, **dict.fromkeys(timings, 0)} == {**other, **dict.fromkeys(timings, 0)}


@pytest.mark.parametrize("slow", [0, 1])
def test_ctrl_c_in_the_first_step_ends_all_processes_at_once(configure, run_ranks, capfd, slow):
    """One of them computes on, whatever a handler raises, and the other waits for it in a collective, where no handler has its turn."""
    config = configure("ijepa")

    def work(rank):
        def training_step(self, *arguments):
            if rank == slow:
                with suppress(StopRequested):
                    os.kill(os.getpid(), signal.SIGINT)
                while True:
                    with suppress(StopRequested):
                        time.sleep(0.1)
            return original(self, *arguments)

        signals.LEAVE_WITHIN_S = 0.3
        original, Pretraining.training_step = Pretraining.training_step, training_step
        pretrain(config)

    assert run_ranks(work, 2) == [75, 75]
    said = capfd.readouterr().err
    assert (
        said.count("SIGINT: stopped cleanly before the first step; nothing is saved yet, so the same command starts over") == 1
    ), said
    assert not (config.folder / "checkpoints").exists()


def test_the_target_is_dealt_out_like_the_encoder(configure, on_processes):
    """After an update on the parts alone it is what an update of the whole would have made."""
    config = configure("ijepa", "trainer.strategy=fsdp2")

    def look():
        original = CheckpointCallback.on_step

        def on_step(self, trainer, module):
            original(self, trainer, module)
            for slow, fast in zip(module.method.target.parameters(), module.method.encoder.parameters(), strict=True):
                assert slow.placements == fast.placements and slow.to_local().shape == fast.to_local().shape
                assert slow.dtype == torch.float32
            assert len(list(flatten(dict(module.method.target.named_parameters())))) > 5

        CheckpointCallback.on_step = on_step

    assert on_processes(config, 2, look) == [0, 0]
    saved = weights(config)
    encoder = json.loads((config.folder / "encoder/config.json").read_text())
    assert encoder["kept"] == "target" and encoder["step"] == 5
    from safetensors.torch import load_file

    kept = load_file(config.folder / "encoder/model.safetensors")
    for name, value in kept.items():
        assert torch.equal(value, saved[f"method.target.{name}"]), name


def test_processes_that_differ_say_in_what(configure, run_ranks, capfd):
    def work(rank):
        pretrain(configure("ijepa", f"seed={rank}"))

    assert set(run_ranks(work, 2)) == {2}
    said = capfd.readouterr().err
    assert said.count("the processes of this run differ") == 1
    assert "rank 1" in said and "configuration" in said


def test_a_broken_step_is_blamed_on_the_samples_of_its_process(configure, run_ranks, capfd):
    config = configure("ijepa", "optim.total_samples=64", "method.regularizer={name: none}")

    def work(rank):
        if rank == 1:
            original = Pretraining.update_meters
            Pretraining.update_meters = lambda self, batch, output, loss: original(
                self, batch, output, loss * (float("nan") if self.step == 2 else 1.0)
            )
        pretrain(config)

    assert run_ranks(work, 2) == [2, 2]
    said = capfd.readouterr().err
    assert said.count("step 3 gave a loss") == 1
    from streams import load_stream

    from jepa_pipeline.masks.build import build_mask_samplers

    shares = [list(load_stream(config, build_mask_samplers(config.method), rank=rank, world_size=2))[2].keys for rank in (0, 1)]
    blamed = said.partition("its samples: ")[2].split()[0:4]
    assert [key.strip(",") for key in blamed] == shares[1], said


def test_a_contradiction_is_said_by_one(configure, run_ranks, capfd):
    config = configure("ijepa", "trainer.devices=4", "trainer.accelerator=cpu")
    assert run_ranks(lambda rank: pretrain(config), 2) == [2, 2]
    assert capfd.readouterr().err.count("trainer.devices is 4, but torchrun started 2") == 1
