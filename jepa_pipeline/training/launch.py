"""Processes for several devices of one machine, for a run that neither torchrun nor Slurm started.

torch.distributed.run's elastic launch would do this with fewer lines of ours. But it kills processes 30 s after it passes a signal
on, while a run may take STOP_WITHIN_S to save its last checkpoint, and it ends the others as soon as one fails, while the watchdog
needs a while to say which one and why.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from jepa_pipeline.config.render import save_config
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.worker_pool import die_with_parent
from jepa_pipeline.training.processes import RankInfo, free_port
from jepa_pipeline.training.signals import STOP_SIGNALS, outlive_terminal
from jepa_pipeline.training.watchdog import SILENT_S

GRACE_S = 30.0
"""Seconds beyond SILENT_S after which processes that outlive a failed one are killed."""


def launch_processes(config: RunConfig, info: RankInfo) -> int:
    """Start `jepa pretrain` for each device of this machine, pass stop signals on, and wait until all have ended.

    Returns:
        The exit code: 0 if all succeeded, else that of the first rank that ended by itself with another.
    """
    threads = str(max(1, len(os.sched_getaffinity(0)) // info.local_world_size))
    environment = {
        **os.environ,
        "MASTER_ADDR": info.master_addr,
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(info.world_size),
        "LOCAL_WORLD_SIZE": str(info.world_size),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
    }
    with tempfile.TemporaryDirectory(prefix="jepa-") as folder:
        recipe = Path(folder) / "config.yaml"
        save_config(recipe, config)
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "jepa_pipeline", "pretrain", str(recipe)],
                env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                start_new_session=True,  # so that Ctrl-C reaches them once, through this process
                preexec_fn=die_with_parent,
            )
            for rank in range(info.world_size)
        ]
        return wait_for_processes(processes, SILENT_S + GRACE_S)


def wait_for_processes(processes: list[subprocess.Popen[bytes]], grace_s: float) -> int:
    """Wait for processes and pass stop signals on to them; kill those that are still there grace_s after one has failed."""

    def pass_on(number: int, _: object) -> None:
        for process in processes:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    handlers_before = {number: signal.signal(number, pass_on) for number in STOP_SIGNALS}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        handlers_before[signal.SIGHUP] = signal.signal(signal.SIGHUP, outlive_terminal)
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
        for number, handler in handlers_before.items():
            signal.signal(number, handler)
    codes = [process.returncode for process in processes]
    # A negative code is a signal's: a shell would say 128 + its number.
    return next((code for code in codes if code > 0), next((128 - code for code in codes if code < 0), 0))
