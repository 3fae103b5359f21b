"""A trial in a process of its own, so that neither its memory nor its threads, kernels or failures meet the next one."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from jepa_pipeline.config.render import to_yaml
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.worker_pool import die_with_parent
from jepa_pipeline.training.launch import memory_file
from jepa_pipeline.training.parts import objects_file
from jepa_pipeline.training.trial import TrialRecorder
from jepa_pipeline.tuning.comparison import Measured

OUT_OF_MEMORY = "out of memory"


class TrialProcesses:
    """Starts trials, one after the other: `jepa pretrain` with a callback, which ends together with this process.

    Args:
        folder: for what the runs write, which no one needs.
        steps: most steps of a trial.
        seconds: after which a trial ends, its first steps not counted.
    """

    def __init__(self, folder: Path, steps: int, seconds: float) -> None:
        self.folder, self.steps, self.seconds, self.count = folder, steps, seconds, 0

    def run(self, config: RunConfig, count_flops: bool = False) -> Measured | str:
        """Run the first steps of a run; return what they measured, or why they could not."""
        self.count += 1
        result, log = self.folder / f"{self.count}.json", self.folder / f"{self.count}.log"
        recorder = TrialRecorder(result, min(self.steps, config.optim.total_steps), self.seconds, count_flops)
        config = without_output(config, self.folder / f"{self.count}")
        code = train(config, recorder, log)
        if result.is_file():
            return Measured(**json.loads(result.read_text()))
        if code < 0:
            return f"killed by signal {-code}, perhaps for lack of memory"
        return last_words(log.read_text(errors="replace"))


def without_output(config: RunConfig, folder: Path) -> RunConfig:
    """Return a run of the same steps that saves, sends and probes nothing."""
    sections = {
        "checkpoint": {"every_steps": config.optim.total_steps, "every_minutes": None},
        "log": {"wandb": False, "hashes_every_steps": None},
        "probing": {"every_steps": None},
        "trainer": {"restarts": 0},
    }
    updates = {name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    return config.model_copy(update={"output": folder, **updates})


def train(config: RunConfig, recorder: TrialRecorder, log: Path) -> int:
    """Train until the recorder ends it, print all to a file, and return the exit code, as of subprocess."""
    with (
        memory_file(to_yaml(config)) as recipe,
        objects_file(config, [recorder], config.trainer.processes) as objects,
        log.open("wb") as output,
    ):
        assert objects is not None
        descriptor, environment = objects
        process = subprocess.Popen(
            [sys.executable, "-m", "jepa_pipeline", "pretrain", f"/proc/self/fd/{recipe}"],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for this process, which kills that one
            preexec_fn=partial(die_with_parent, os.getpid()),
            pass_fds=(recipe, descriptor),
        )
        try:
            return process.wait()
        finally:
            process.kill()
            process.wait()


def last_words(log: str) -> str:
    """Return the sentence in which a trial said why it ended."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if any("memory is not enough" in line or "out of memory" in line.lower() for line in lines):
        return OUT_OF_MEMORY
    return lines[-1] if lines else "it ended without a word"
