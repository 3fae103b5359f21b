"""Runs with a data set, an encoder, a method and callbacks of the user's own: killed and resumed, and on two processes."""

import os
import sys
from functools import partial
from pathlib import Path

import pytest

import jepa_pipeline._torchvision  # noqa: F401
from jepa_pipeline import pretrain
from jepa_pipeline.files import read_json_lines
from jepa_pipeline.training.checkpoint import load_info
from jepa_pipeline.training.loggers import HASHES
from lightning import Callback

sys.path.append(str(Path(__file__).parents[2] / "examples"))
import own_dataset
import own_encoder
import own_method

FAST = [
    "optim={name: sgd, lr: 0.001, batch_size_global: 8, total_samples: 48, warmup_samples: 8, clip_norm: 1.0, weight_decay: 0.01}",
    "log={every_steps: 1, hashes_every_steps: 1}",
    "health.every_steps=6",
    "checkpoint={every_steps: 2, background: false}",
    "trainer.accelerator=cpu",
]
EXAMPLES = {"own_dataset": own_dataset, "own_encoder": own_encoder, "own_method": own_method}


class Killer(Callback):
    """Ends the process after a step, as a power cut does."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, *_):
        if pl_module.step == self.step:
            os._exit(9)


@pytest.fixture
def train(shards, tmp_path, run_ranks):
    """A function that runs an example on so many processes, as torchrun would have started them; the exit codes and the run."""

    def run(name, folder, world=1, killed_after=None, *overrides):
        data = [] if name == "own_dataset" else [f"data.train={shards / 'train'}"]
        output = tmp_path / folder

        def work(rank):
            example = EXAMPLES[name]
            if killed_after is not None:
                example.pretrain = partial(pretrain, callbacks=[Killer(killed_after)])
            example.main([*FAST, *data, f"output={output}", *overrides])

        return run_ranks(work, world), output / name

    return run


def losses(run):
    return [row["loss"] for row in read_json_lines(run / "metrics.jsonl") if "loss" in row]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_killed_and_resumed_is_the_unkilled_one_bit_for_bit(name, train):
    codes, straight = train(name, "straight")
    assert codes == [0]
    assert train(name, "killed", 1, 5)[0] == [9]
    codes, killed = train(name, "killed")
    assert codes == [0]
    hashes = read_json_lines(straight / HASHES)
    assert len(hashes) == 6 and read_json_lines(killed / HASHES) == hashes
    assert load_info(straight / "checkpoints/last").sha256 == load_info(killed / "checkpoints/last").sha256


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_on_two_processes_is_the_one_on_one(name, train):
    (alone_codes, alone), (shared_codes, shared) = train(name, "alone"), train(name, "shared", 2, None, "data.workers=1")
    assert alone_codes == [0] and shared_codes == [0, 0]
    assert len(losses(alone)) == 6
    assert losses(shared) == pytest.approx(losses(alone), rel=1e-5)
