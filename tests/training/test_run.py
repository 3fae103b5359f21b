"""Complete runs: what they write, what does not change their results, and what ends them."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.files import read_json_lines
from jepa_pipeline.methods.jepa import JEPA
from jepa_pipeline.models.weights import hash_weights, load_encoder, read_card
from jepa_pipeline.training import callbacks
from jepa_pipeline.training.checkpoint import load_checkpoint, load_latest
from jepa_pipeline.training.module import Pretraining

QUIET = Console(quiet=True)


def run(config):
    pretrain(config, QUIET)
    return last(config)


def last(config):
    return load_latest(config.folder / "checkpoints", log=pytest.fail).state


def weights(state):
    return {name: value for name, value in state["module"].items() if name.startswith("method.")}


def same(first, second, tolerance=0.0):
    assert first.keys() == second.keys()
    return all(torch.allclose(first[name], second[name], rtol=0, atol=tolerance) for name in first)


def test_a_run_writes_its_files(tiny):
    config = tiny()
    state = run(config)
    assert state["step"] == 6
    assert (config.folder / "config.yaml").exists()
    assert json.loads((config.folder / "environment.json").read_text())["config_hash"] == config.hash()
    rows = read_json_lines(config.folder / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6]
    assert [row["step"] for row in rows if "health/predictor_r2" in row] == [3, 6]
    assert all(0 <= row["data_wait_share"] <= 1 and row["samples_per_s"] > 0 for row in rows if "loss" in row)
    card = read_card(config.folder)
    assert (card.step, card.samples, card.config_hash) == (6, 48, config.hash())
    kept = {f"method.target.{name}": value for name, value in load_encoder(config.folder).state_dict().items()}
    assert same(kept, {name: value for name, value in state["module"].items() if name.startswith("method.target.")})


def test_a_run_is_bit_identical_for_any_number_of_workers(tiny):
    first = run(tiny("name=a"))
    second = run(tiny("name=b", "data.workers=2"))
    assert same(weights(first), weights(second))
    assert not same(weights(first), weights(run(tiny("name=c", "seed=1"))))


def test_accumulation_changes_nothing_but_rounding(tiny):
    """Rates, decay and the target's momentum count optimizer steps, not batches; the gradient is the whole batch's mean."""
    eps = "optim.eps=1e-3"  # else AdamW would blow the rounding of gradients that are zero, those of key biases, up to whole steps
    whole, parts = run(tiny("name=whole", eps)), run(tiny("name=parts", eps, "optim.accumulate_steps=4"))
    assert parts["step"] == whole["step"] == 6
    assert same(weights(whole), weights(parts), tolerance=1e-6)
    logged = [
        [row["lr"] for row in read_json_lines(tiny(f"name={name}").folder / "metrics.jsonl") if "lr" in row]
        for name in ("whole", "parts")
    ]
    assert logged[0] == logged[1]


def test_the_length_of_schedules_comes_from_the_configuration_alone(tiny, monkeypatch):
    """A loader without a length gives the same run."""
    import jepa_pipeline.data.loader as loader_module
    from jepa_pipeline import pretrain as _  # noqa: F401
    from jepa_pipeline.data.sampler import DistributedBatchSampler

    first = run(tiny("name=sized"))
    monkeypatch.delattr(DistributedBatchSampler, "__len__")
    assert loader_module.DistributedBatchSampler is DistributedBatchSampler and not hasattr(DistributedBatchSampler, "__len__")
    assert same(weights(first), weights(run(tiny("name=unsized"))))


def test_momentum_and_rates_under_max_steps(tiny, monkeypatch):
    """The EMA is updated at steps 1 to total_steps, with a momentum planned for schedule_steps."""
    updates = []
    original = JEPA.after_optimizer_step

    def after_optimizer_step(self, step, schedule_steps):
        updates.append((step, schedule_steps))
        original(self, step, schedule_steps)

    monkeypatch.setattr(JEPA, "after_optimizer_step", after_optimizer_step)
    run(tiny("optim.schedule_stretch=1.5", "optim.accumulate_steps=2"))
    assert updates == [(step, 9) for step in range(1, 7)]


def test_a_killed_run_resumes_to_the_same_result(tiny, monkeypatch):
    straight = run(tiny("name=straight", "checkpoint.every_steps=2"))
    config = tiny("name=cut", "checkpoint.every_steps=2")

    class Killed(Exception):
        pass

    def kill_after(step):
        def on_step(self, trainer, module):
            original(self, trainer, module)
            if module.step == step:
                raise Killed

        return on_step

    original = callbacks.HealthMonitor.on_step
    monkeypatch.setattr(callbacks.HealthMonitor, "on_step", kill_after(5))
    with pytest.raises(Killed):
        pretrain(config, QUIET)
    monkeypatch.setattr(callbacks.HealthMonitor, "on_step", original)
    assert last(config)["step"] == 4
    continued = run(config)
    assert same(weights(straight), weights(continued))
    for name, group in straight["optimizer"]["state"].items():
        assert same(group, continued["optimizer"]["state"][name])
    rows = [row["step"] for row in read_json_lines(config.folder / "metrics.jsonl") if "loss" in row]
    assert rows == [2, 4, 6]


def test_a_finished_run_is_not_trained_again(tiny):
    config = tiny()
    first = run(config)
    assert same(weights(first), weights(run(config)))


def test_a_folder_without_a_checkpoint_may_be_reused(tiny, monkeypatch):
    """So that after an early failure another learning rate can be tried under the same name."""
    poison(monkeypatch, step=1)
    with pytest.raises(UserError, match="step 1"):
        pretrain(tiny(), QUIET)
    monkeypatch.undo()
    assert run(tiny("optim.lr=5e-4"))["step"] == 6


def test_a_broken_step_is_named_even_where_health_is_measured_first(tiny, monkeypatch):
    poison(monkeypatch, step=3)
    with pytest.raises(UserError, match="step 3 gave a loss or gradient that is not finite"):
        pretrain(tiny("health.every_steps=4", "log.every_steps=5"), QUIET)


def test_a_resumed_run_adds_to_its_seconds(tiny):
    first = tiny("optim.total_samples=48", "checkpoint.every_steps=2")
    run(first)
    seconds = [row["seconds"] for row in read_json_lines(first.folder / "metrics.jsonl") if "loss" in row]
    shutil_rows = (first.folder / "checkpoints/step-00000006").rename(first.folder / "gone")
    assert shutil_rows.exists()
    run(first)
    again = [row["seconds"] for row in read_json_lines(first.folder / "metrics.jsonl") if "loss" in row]
    assert again[:2] == seconds[:2] and again[2] > again[1]


def poison(monkeypatch, step):
    """Make the loss of one step NaN."""
    original = JEPA.forward

    def forward(self, *inputs):
        output = original(self, *inputs)
        forward.calls += 1
        factor = float("nan") if forward.calls == step else 1.0
        return output._replace(losses={name: loss * factor for name, loss in output.losses.items()})

    forward.calls = 0
    monkeypatch.setattr(JEPA, "forward", forward)


def test_a_step_that_is_not_finite_stops_the_run_before_it_touches_the_weights(tiny, monkeypatch):
    config = tiny("log.every_steps=6", "checkpoint.every_steps=2", "optim.total_samples=80")
    expected = run(tiny("name=expected", "checkpoint.every_steps=2", "optim.total_samples=80", "checkpoint.keep_last=9"))
    assert expected["step"] == 10
    before = load_checkpoint(tiny("name=expected").folder / "checkpoints/step-00000004").state
    poison(monkeypatch, step=5)
    kept = {}
    original = Pretraining.check_finite

    def check_finite(self):
        kept.update({name: value.clone() for name, value in self.method.state_dict().items() if not name.startswith("target.")})
        original(self)

    monkeypatch.setattr(Pretraining, "check_finite", check_finite)
    with pytest.raises(UserError, match=r"step 5 gave a loss or gradient that is not finite") as raised:
        pretrain(config, QUIET)
    assert str(raised.value).count(",") >= 7, "the samples of the step are named"
    for name, value in kept.items():
        assert torch.equal(value, before["module"][f"method.{name}"]), f"{name} moved"
    assert last(config)["step"] == 4, "the last checkpoint is whole and older"


def test_a_poisoned_gradient_counts_too(tiny, monkeypatch):
    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("inf")

    original = JEPA.forward
    monkeypatch.setattr(
        JEPA,
        "forward",
        lambda self, *inputs: (o := original(self, *inputs))._replace(losses={k: Poison.apply(v) for k, v in o.losses.items()}),
    )
    with pytest.raises(UserError, match="step 1 gave a loss or gradient"):
        pretrain(tiny(), QUIET)


def test_clipping_bounds_the_update(tiny):
    """With plain gradients of norm far above the bound, Adam's second moment shows the clipped scale."""
    free, clipped = run(tiny("name=free")), run(tiny("name=clipped", "optim.clip_norm=1e-4"))
    waits = ["optim.clip_norm=1e-4", "optim.clip_after_warmup=true"]
    waiting, after = run(tiny("name=waiting", *waits)), run(tiny("name=after", *waits, "optim.warmup_samples=0"))

    def scale(state):
        return max(group["exp_avg_sq"].max() for group in state["optimizer"]["state"].values())

    assert scale(clipped) <= 1e-8 < scale(free)
    assert scale(after) <= 1e-8 < scale(waiting)


def test_bf16_trains_and_keeps_its_weights_and_target_in_fp32(tiny):
    state = run(tiny("trainer.precision=bf16"))
    assert all(value.dtype == torch.float32 for value in weights(state).values())


def test_wandb_that_fails_never_ends_a_run(tiny, monkeypatch):
    import wandb

    def refuse(**_):
        raise RuntimeError("no such server")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.warns(UserWarning, match="wandb failed and is off from here on: no such server"):
        assert run(tiny("log.wandb=true"))["step"] == 6


def test_wandb_writes_offline(tiny, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = tiny("log.wandb=true")
    run(config)
    assert list(config.folder.glob("wandb/offline-run-*/*.wandb"))


def test_compiled_networks_train_the_same(tiny, monkeypatch):
    """Compilation is asked for on the blocks in place, so that their names in a checkpoint stay."""
    asked = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *_, **__: asked.append(type(self).__name__))
    state = run(tiny("trainer.compile=true"))
    assert asked == ["Block"] * (2 + 1 + 2)  # of encoder, predictor and target
    assert "method.encoder.norm.weight" in weights(state)


def test_hash_weights_hears_of_one_bit(tiny):
    config = tiny()
    run(config)
    encoder = load_encoder(config.folder)
    before = hash_weights(encoder)
    encoder.norm.bias[0] += 1e-6
    assert hash_weights(encoder) != before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpus_of_a_job_are_not_left_idle(tiny, monkeypatch):
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "8")
    with pytest.raises(UserError, match=r"GPUs \(8\), but torch .* trainer.accelerator=cpu"):
        pretrain(tiny("trainer.accelerator=auto"))
    assert pretrain(tiny("trainer.accelerator=cpu"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
        ),
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_a_want_of_memory_is_one_sentence(tiny, monkeypatch, error):
    def training_step(self, batch, batch_idx):
        raise error

    monkeypatch.setattr(Pretraining, "training_step", training_step)
    with pytest.raises(UserError, match=r"not enough for micro-batches of 4 samples \(in step 1\): raise optim.accumulate_steps"):
        run(tiny("optim.accumulate_steps=2"))


def test_the_recipe_of_several_processes_is_on_no_disk():
    """A launcher that is killed leaves nothing behind, nor the secrets of a recipe."""
    from jepa_pipeline.training.launch import memory_file

    with memory_file("name: a\n") as descriptor:
        path = Path(f"/proc/self/fd/{descriptor}")
        assert path.read_text() == path.read_text() == "name: a\n", "each reader begins at its start"
        assert "memfd" in str(path.readlink())
