"""A training run in processes of its own, watched from outside: which processes it has, and in which phase it is."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Literal

from jepa_pipeline.config.render import save_config
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.worker_pool import die_with_parent
from jepa_pipeline.files import LOCK, PARTIAL
from jepa_pipeline.training.checkpoint import DROPPED, list_checkpoints, step_of
from jepa_pipeline.training.loggers import HASHES

Phase = Literal["imports", "setup", "steps", "checkpoint", "end"]
"""imports: before the run folder is locked; setup: before the first step of this start; end: after the last step."""

MARK = "JEPA_SELFTEST_RUN"
"""Environment variable by which the processes of a run are found, whatever session or parent they have."""
UNFINISHED = (PARTIAL, DROPPED)
"""Suffixes of checkpoints that are being written or deleted."""
LEFT_S = 20.0
"""Seconds after the end of a run's first process within which all others must have ended."""


COPIED_S = 1.0
"""Seconds for what a run printed last to reach its log."""


class LiveRun:
    """`jepa pretrain` as a user starts it. Used as a context, which ends with every process of it killed.

    Args:
        config: what to run.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config, self.mark = config, f"{MARK}={token_hex(8)}"
        self.temporary = TemporaryDirectory(prefix="jepa-")  # a short path, since sockets are made in it
        self.begun = False
        self.size = self._hashes_size()
        name, value = self.mark.split("=")
        direct = ",".join(filter(None, (os.environ.get("no_proxy"), "127.0.0.1")))
        environment = {**os.environ, name: value, "TMPDIR": self.temporary.name, "no_proxy": direct, "NO_PROXY": direct}
        command = [sys.executable, "-m", "jepa_pipeline", "pretrain", str(write_recipe(config))]
        self.started, self.started_at = time.monotonic(), time.time()
        # through a pipe, since a limit of file sizes must not meet the log
        reader, writer = os.pipe()
        self.process = self.start(command, environment, writer)
        os.close(writer)
        self.copying = Thread(target=self._copy_output, args=(reader,), daemon=True)
        self.copying.start()

    def start(self, command: list[str], environment: dict[str, str], output: int) -> subprocess.Popen[bytes]:
        """Start the first process, in a session of its own, with an open file for what it prints."""
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )

    def _copy_output(self, reader: int) -> None:
        with os.fdopen(reader, "rb", buffering=0) as output, log_path(self.config).open("ab", buffering=0) as log:
            while printed := output.read(1 << 16):
                log.write(printed)

    def _hashes_size(self) -> int:
        path = self.config.folder / HASHES
        return path.stat().st_size if path.exists() else 0

    def __enter__(self) -> "LiveRun":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.pids():
            send(pid, signal.SIGKILL)
        self.process.wait()
        self.temporary.cleanup()

    def pids(self) -> list[int]:
        """Return the living processes of the run, the one that was started first."""
        found = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdecimal() and self._is_mine(folder)]
        return sorted(found, key=lambda pid: (pid != self.process.pid, pid))

    def _is_mine(self, folder: Path) -> bool:
        try:
            return self.mark.encode() in (folder / "environ").read_bytes().split(b"\0")  # empty in one that has ended
        except OSError:  # it has ended, or is another user's
            return False

    def trainers(self) -> list[int]:
        """Return the processes that write to the run folder: those that lead a session, which data workers do not."""
        found = []
        for pid in self.pids():
            with suppress(ProcessLookupError):
                if os.getsid(pid) == pid:
                    found.append(pid)
        return found

    def steps(self) -> int:
        """Return the number of steps that the run has taken, in this start or before."""
        return count_steps(self.config)

    def look(self) -> bool:
        """Notice whether a step was taken since the start; return whether the run's first process lives."""
        size = self._hashes_size()
        self.begun = self.begun or size > self.size
        self.size = size
        return self.process.poll() is None

    def phase(self) -> Phase:
        """Return the phase in which the run is, as its folder shows it."""
        if not self.begun:
            lock = self.config.folder / LOCK
            return "setup" if lock.exists() and lock.stat().st_mtime >= self.started_at else "imports"
        folder = self.config.folder / "checkpoints"
        if folder.exists() and any(name.endswith(UNFINISHED) for name in os.listdir(folder)):  # noqa: PTH208  # fast
            return "checkpoint"
        return "end" if self.steps() == self.config.optim.total_steps else "steps"

    def wait(self, until: Callable[[], bool], limit_s: float, pause_s: float = 0.005) -> bool:
        """Wait until something is true; return whether it is, and not that the run has ended or the time is over."""
        deadline = time.monotonic() + limit_s
        while self.look() and time.monotonic() < deadline:
            if until():
                return True
            time.sleep(pause_s)
        return False

    def wait_for_end(self, limit_s: float | None) -> int | None:
        """Return the exit code, after what was printed is in the log; None if the run has not ended in time."""
        try:
            code = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        self.copying.join(COPIED_S)  # a process that outlives the first one may keep the pipe open
        return code

    def leavings(self) -> list[str]:
        """Return a sentence on processes that live LEFT_S after the first one has ended, and one on temporary files.

        Sockets do not count: those of multiprocessing's data workers outlast every SIGKILL.
        """
        deadline = time.monotonic() + LEFT_S
        while (pids := self.pids()) and time.monotonic() < deadline:
            time.sleep(0.05)
        found = [f"processes {', '.join(map(str, pids))} outlived it"] if pids else []
        folder = Path(self.temporary.name)
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        return [*found, f"it left {', '.join(files)} in its TMPDIR"] if files else found


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process unless it has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def write_recipe(config: RunConfig) -> Path:
    """Write the recipe of a run beside its folder, and return its path."""
    config.output.mkdir(parents=True, exist_ok=True)
    recipe = config.output / f"{config.name}.yaml"
    save_config(recipe, config)
    return recipe


def log_path(config: RunConfig) -> Path:
    return config.output / f"{config.name}.log"


def last_line(config: RunConfig) -> str:
    """Return the last line that a run has printed."""
    path = log_path(config)
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines else "it printed nothing"


def count_steps(config: RunConfig) -> int:
    """Return the number of lines of hashes.jsonl, which has one per step."""
    path = config.folder / HASHES
    return path.read_bytes().count(b"\n") if path.exists() else 0


def checkpointed_step(config: RunConfig) -> int:
    """Return the step of the newest checkpoint; 0 if there is none."""
    checkpoints = list_checkpoints(config.folder / "checkpoints")
    return step_of(checkpoints[-1]) if checkpoints else 0
