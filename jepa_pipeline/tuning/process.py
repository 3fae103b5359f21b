"""A trial in a process of its own, so that neither its memory nor its threads, kernels or failures meet the next one."""

import json
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from rich.console import Console

from jepa_pipeline.config.errors import UserError, is_out_of_memory
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.worker_pool import die_with_parent
from jepa_pipeline.training.trial import TrialEnded, TrialRecorder
from jepa_pipeline.tuning.comparison import Measured

OUT_OF_MEMORY = "out of memory"


class TrialProcesses:
    """Starts trials, one after the other.

    Args:
        pretrain: trains a run, given its configuration, a console and callbacks.
        folder: for what the runs write, which no one needs.
        steps: most steps of a trial.
        seconds: after which a trial ends, its first steps not counted.
    """

    def __init__(self, pretrain: Callable[..., Any], folder: Path, steps: int, seconds: float) -> None:
        self.pretrain, self.folder, self.steps, self.seconds, self.count = pretrain, folder, steps, seconds, 0
        self.context: ForkServerContext = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([pretrain.__module__])  # each trial is a fork of a process that has imported it

    def run(self, config: RunConfig, count_flops: bool = False) -> Measured | str:
        """Run the first steps of a run; return what they measured, or why they could not."""
        self.count += 1
        result, log = self.folder / f"{self.count}.json", self.folder / f"{self.count}.log"
        recorder = TrialRecorder(result, min(self.steps, config.optim.total_steps), self.seconds, count_flops)
        config = without_output(config, self.folder / f"{self.count}")
        process = self.context.Process(target=train, args=(self.pretrain, config, recorder, log))
        process.start()
        try:
            process.join()
        finally:
            process.kill()  # where this one is interrupted
            process.join()
        if result.is_file():
            return Measured(**json.loads(result.read_text()))
        if process.exitcode is not None and process.exitcode < 0:
            return f"killed by signal {-process.exitcode}, perhaps for lack of memory"
        return last_words(log.read_text(errors="replace") if log.is_file() else "")


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


def train(pretrain: Callable[..., Any], config: RunConfig, recorder: TrialRecorder, log: Path) -> None:
    """Train until the recorder ends it. All that is printed, also by processes that this one starts, goes to a file."""
    die_with_parent(os.getppid())
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        pretrain(config, Console(quiet=True), callbacks=[recorder])
    except TrialEnded:
        return
    except (UserError, RuntimeError, MemoryError, OSError) as error:
        text = OUT_OF_MEMORY if any(map(is_out_of_memory, filter(None, (error, error.__cause__)))) else error
        os.write(1, f"\n{text}\n".encode())
        os._exit(1)


def last_words(log: str) -> str:
    """Return the sentence in which a trial said why it ended."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if any("memory is not enough" in line or "out of memory" in line.lower() for line in lines):
        return OUT_OF_MEMORY
    return lines[-1] if lines else "it ended without a word"
