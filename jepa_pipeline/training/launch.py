"""A run on several devices of one machine, where nobody else starts its processes."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from jepa_pipeline.config.render import to_yaml
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.loader import end_with_parent
from jepa_pipeline.training.processes import World, free_port
from jepa_pipeline.training.signals import STOP_SIGNALS

GRACE_S = 30.0
"""Seconds beyond trainer.silent_s after which processes that outlive another are killed."""


def start_here(config: RunConfig, world: World) -> int:
    """Start a process for each device of this machine, pass signals on to them, and wait for them.

    Returns:
        The exit code: 0 if all is well, else that of the first that ended by itself.
    """
    threads = str(max(1, len(os.sched_getaffinity(0)) // world.local_size))
    shared = {"MASTER_ADDR": world.address, "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world.size)}
    shared |= {"LOCAL_WORLD_SIZE": str(world.size), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
    with tempfile.TemporaryDirectory(prefix="jepa-") as folder:
        recipe = Path(folder) / "config.yaml"
        recipe.write_text(to_yaml(config))
        command = [sys.executable, "-m", "jepa_pipeline", "pretrain", str(recipe)]
        processes = [
            subprocess.Popen(
                command,
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                start_new_session=True,  # so that Ctrl-C comes to them once, from here
                preexec_fn=end_with_parent,
            )
            for rank in range(world.size)
        ]
        return attend(processes, config.trainer.silent_s + GRACE_S)


def attend(processes: list[subprocess.Popen[bytes]], grace_s: float) -> int:
    """Wait for processes, passing signals on to them; when one is gone in disorder, the others have so long to end."""

    def pass_on(number: int, _: object) -> None:
        for process in processes:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in STOP_SIGNALS}
    try:
        deadline = float("inf")
        while any(process.poll() is None for process in processes):
            if deadline == float("inf") and any(process.returncode for process in processes):
                deadline = time.monotonic() + grace_s
            if time.monotonic() > deadline:
                for process in processes:
                    process.kill()
            time.sleep(0.05)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    codes = [process.returncode for process in processes]
    return next((code for code in codes if code > 0), next((128 - code for code in codes if code < 0), 0))
