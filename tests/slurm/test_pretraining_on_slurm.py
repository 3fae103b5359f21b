"""Pretraining on two nodes of a real cluster, interrupted in every way Slurm knows: it ends bit-identical to the run left alone.

All jobs are queued at once, disturbed once they train, and looked at when they have ended.
"""

import json
import re
import subprocess
from pathlib import Path

import pytest

from jepa_pipeline.files import read_json_lines
from jepa_pipeline.training.loggers import HASHES
from jepa_pipeline.training.watchdog import ABORTED

ROOT = Path(__file__).parents[2]
STEPS, BATCH = 240, 8
SHORT = [
    "method.encoder={image_size: 16, patch_size: 4, embed_dim: 24, depth: 2, num_heads: 2}",
    "method.predictor={embed_dim: 16, depth: 1, num_heads: 2}",
    "method.masks={num_targets: 2, target_scale: [0.2, 0.3], context_keep: 0.3}",
    f"optim={{batch_size_global: {BATCH}, accumulate_steps: 2, total_samples: {STEPS * BATCH}}}",
    "log={every_steps: 10, hashes_every_steps: 20}",
    "health.every_steps=50",
    "checkpoint={every_steps: 50, keep_last: 2}",
]
QUIET_NODES, BUSY_NODES = ["--set", "exclude=node3,node4"], ["--set", "partition=low", "--set", "exclude=node1,node2"]


def slurm(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def requeue(run):
    slurm("scontrol", "requeue", run.id)


def warn(run):
    """What --signal=USR2@N has Slurm do ahead of the time limit."""
    slurm("scancel", "--signal=USR2", run.id)


def preempt(run):
    """A job of the partition `high` asks for all of both nodes."""
    slurm("sbatch", "-p", "high", "-w", "node3,node4", "-N2", "-c16", "-o/dev/null", "--wrap", "sleep 1")


def cancel(run):
    run.jepa("cancel", run.id)


class Run:
    """A submitted run."""

    def __init__(self, jepa, name, *words, strategy="ddp"):
        self.jepa, self.name, self.folder = jepa, name, jepa.folder / "runs" / name
        said = jepa(
            "submit", "pretrain", ROOT / "configs/debug/ijepa.yaml", f"name={name}", f"trainer.strategy={strategy}", *SHORT,
            "--set", "nodes=2", *words,
        )  # fmt: skip
        (self.id,) = re.findall(r"^job (\S+):", said, re.M)

    def log(self):
        return "".join(path.read_text() for path in sorted(self.folder.glob("jobs/*.log")))

    def step(self):
        return max((row["step"] for row in read_json_lines(self.folder / "metrics.jsonl")), default=0)

    def state(self):
        return slurm("sacct", "-n", "-X", "-P", "-o", "State", "-j", self.id).strip().splitlines()[-1].split()[0]

    def ended(self):
        return self.state() not in ("PENDING", "RUNNING", "REQUEUED", "COMPLETING", "RESIZING", "SUSPENDED")

    def ends(self):
        return read_json_lines(self.folder / "requeues.jsonl")

    def processes(self):
        """The training process of each rank, by the folder of what it was submitted with."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                words, environment = (place / "cmdline").read_text(), (place / "environ").read_text()
            except OSError:
                continue
            if "submitit.core._submit" in words and f"/{self.name}/" in words and "srun" not in words:
                parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                if f"SLURM_JOB_ID={self.id}\0" in environment and "SLURM_PROCID=" in environment:
                    found[int(place.name)] = int(re.search(r"SLURM_PROCID=(\d+)", environment)[1]), parent
        return {rank: pid for pid, (rank, parent) in found.items() if parent not in found}  # not the decoding processes


def hit(signal, rank):
    def act(run):
        slurm("kill", f"-{signal}", str(run.processes()[rank]))

    return act


WAVES = (
    ("alone", "requeued", "preempted"),
    ("alone_sharded", "warned"),
    ("killed", "stopped", "canceled"),
)
"""Which are queued together: all at once would be too much for two cores."""
DISTURBANCES = {
    "alone": (None, QUIET_NODES, "ddp"),
    "requeued": (requeue, QUIET_NODES, "ddp"),
    "warned": (warn, QUIET_NODES, "fsdp2"),
    "preempted": (preempt, BUSY_NODES, "ddp"),
    "killed": (hit("KILL", 1), QUIET_NODES, "ddp"),
    "stopped": (hit("STOP", 0), QUIET_NODES, "ddp"),
    "canceled": (cancel, QUIET_NODES, "ddp"),
    "alone_sharded": (None, QUIET_NODES, "fsdp2"),
}


@pytest.fixture(scope="module")
def runs(project, until):
    """Every run, ended."""
    runs = {}
    for wave in WAVES:
        for name in wave:
            _, words, strategy = DISTURBANCES[name]
            runs[name] = Run(project, name, *words, strategy=strategy)
        waiting = {name: DISTURBANCES[name][0] for name in wave if DISTURBANCES[name][0]}

        def disturb(waiting=waiting):
            for name in [name for name in waiting if runs[name].step() >= 60]:
                waiting.pop(name)(runs[name])
            return not waiting and all(run.ended() for run in runs.values())

        until(disturb, 400, shown=lambda: project("jobs", "--all") + "".join(run.log()[-3000:] for run in runs.values()))
    return runs


@pytest.mark.parametrize("name", ["requeued", "warned", "preempted", "killed", "stopped"])
def test_it_ends_as_the_run_left_alone(runs, name):
    """No step is lost or repeated, in what is computed and in what is logged."""
    alone, run = runs["alone_sharded" if DISTURBANCES[name][2] == "fsdp2" else "alone"], runs[name]
    assert run.state() == "COMPLETED", run.log()
    expected = read_json_lines(alone.folder / HASHES)
    assert len(expected) == STEPS // 20 and read_json_lines(run.folder / HASHES) == expected
    timings = ("seconds", "samples_per_s", "data_wait_share")
    for one, other in zip(*(read_json_lines(either.folder / "metrics.jsonl") for either in (alone, run)), strict=True):
        assert {**one, **dict.fromkeys(timings)} == {**other, **dict.fromkeys(timings)}
    assert len(re.findall("from step 0 ", run.log())) == 1 and len(re.findall(r"from step [1-9]\d* ", run.log())) == 1
    assert json.loads((run.folder / "encoder/config.json").read_text())["step"] == STEPS


def test_a_warning_costs_no_step(runs):
    """The checkpoint is that of the step at which it stopped, agreed by both processes."""
    for name in ("warned", "preempted"):
        (end,) = runs[name].ends()
        assert end["requeued"] and end["saved"] == end["step"] and f"from step {end['step']} " in runs[name].log()


@pytest.mark.parametrize(("name", "rank"), [("killed", 1), ("stopped", 0)])
def test_the_process_that_is_gone_is_named(runs, name, rank):
    (end,) = runs[name].ends()
    assert end["requeued"] and f"rank {rank} on node{rank + 1}" in end["reason"]
    assert end["reason"] in runs[name].log().replace("\n", " ") or f"rank {rank} on node{rank + 1}" in runs[name].log()
    assert list((runs[name].folder / "stacks").glob(f"rank-000{1 - rank}*"))
    assert ABORTED == 71


def test_what_is_canceled_does_not_come_back(runs):
    run = runs["canceled"]
    assert run.state() == "CANCELLED" and not any(end["requeued"] for end in run.ends())
    assert run.step() < STEPS


@pytest.mark.slow
def test_a_time_limit(project, until):
    """Slurm's own: it is announced ahead of the limit, and the run goes on in the same job."""
    words = ["--set", "time=1", "--set", "signal_s=30", "log.hashes_every_steps=20"]
    run = Run(project, "limited", f"optim.total_samples={40 * STEPS * BATCH}", *words)
    until(lambda: run.ends(), 200, shown=run.log)
    (end, *_) = run.ends()
    assert end["requeued"] and end["reason"] == "SIGUSR2" and end["saved"] == end["step"] > 0
    until(lambda: f"from step {end['step']} " in run.log(), 60, shown=run.log)
    project("cancel", run.id)
