"""The ways to train on GPUs: each takes its steps in bf16, learns what the plain run learns, and goes on where it was stopped."""

import re
import shutil
import subprocess
import sys

import pytest
import torch

from jepa_pipeline.config.render import to_yaml
from jepa_pipeline.files import read_json_lines
from jepa_pipeline.training.checkpoint import load_checkpoint

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = "accelerator: cuda, precision: bf16"
STEPS, STOP = 12, 6
WAYS = {
    "compiled": "compile: true",
    "checkpointed": "checkpoint_activations: true",
    "fsdp2": "strategy: fsdp2",
    "all of them": "compile: true, checkpoint_activations: true, strategy: fsdp2",
}
LEVEL = "predictor: {embed_dim: 16, depth: 1, num_heads: 2}, "
METHODS = {
    "ijepa": [],
    "hjepa": [
        "method={name: hjepa, levels: ["
        "{encoder: {image_size: 16, patch_size: 4, frames: 4, tubelet_size: 2, attention: causal, embed_dim: 24, depth: 2,"
        f" num_heads: 2}}, {LEVEL} task: {{name: masked, masks: [{{name: blocks, num_blocks: 2, scale: [0.2, 0.4],"
        " context_keep: 0.2, target_keep: 0.3}]}},"
        "{encoder: {stride: {time: 1, space: 2}, coarsening: conv, embed_dim: 16, depth: 1, num_heads: 2},"
        f" {LEVEL} task: {{name: forward}}, detach: false}}]}}"
    ],
}
SGD = "optim={name: sgd, lr: 0.01, batch_size_global: 8, total_samples: 96, clip_norm: 1.0}"
"""Under AdamW the last bits of a gradient near zero decide the whole of a step."""
ROUNDING = 0.03
"""Of a loss, and of the way that the weights have gone: bfloat16 keeps 8 bits, and each way rounds in another order."""


@pytest.fixture
def run(tiny, tmp_path):
    """A function that makes a run in processes of its own, as a user does, from the middle of another one if that is given."""

    def run(name, way="", begun=None, method="ijepa"):
        trainer = f"trainer={{{DEVICE}{', ' if way else ''}{way}}}"
        saves = f"checkpoint={{every_steps: {STOP}, keep_last: 100}}"
        config = tiny(*METHODS[method], f"name={name}", trainer, SGD, "log.every_steps=1", saves)
        if begun is not None:
            shutil.copytree(saved(begun, STOP), saved(config, STOP))
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(to_yaml(config))
        command = [sys.executable, "-m", "jepa_pipeline", "pretrain", str(recipe)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return config

    return run


def saved(config, step):
    return config.folder / "checkpoints" / f"step-{step:08d}"


def losses(config):
    return {row["step"]: row["loss"] for row in read_json_lines(config.folder / "metrics.jsonl") if "loss" in row}


def weights(config, step):
    """All that is trained, as one vector."""
    state = load_checkpoint(saved(config, step)).state["module"]
    trained = re.compile(r"method\.(levels\.\d\.)?(encoder|predictor)\.")
    return torch.cat([state[name].double().cpu().flatten() for name in sorted(state) if trained.match(name)])


def agree(one, other):
    """From the middle of a run to its end."""
    there, here = losses(other), losses(one)
    assert [*there][-1] == [*here][-1] == STEPS
    assert here == pytest.approx({step: there[step] for step in here}, rel=ROUNDING)
    end = weights(other, STEPS)
    gone = (end - weights(other, STOP)).norm()
    assert gone > 0 and (weights(one, STEPS) - end).norm() < ROUNDING * gone


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_way_learns_what_the_plain_run_learns_and_goes_on_where_it_was_stopped(way, method, run):
    straight = run("straight", way, method=method)
    assert [*losses(straight)] == [*range(1, STEPS + 1)]
    agree(straight, run("plain", method=method))
    continued = run("continued", way, begun=straight, method=method)
    assert [*losses(continued)] == [*range(STOP + 1, STEPS + 1)]
    agree(continued, straight)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_gpus_learn_what_one_learns(strategy, run):
    shared = run("shared", f"devices: 2, strategy: {strategy}")
    agree(shared, run("alone"))
    agree(run("continued", "devices: 2, strategy: ddp", begun=shared), shared)
