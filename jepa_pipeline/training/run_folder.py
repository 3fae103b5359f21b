"""The run folder: its lock, the check that it belongs to this run, and the files that describe the run."""

import errno
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.removed import result_value, upgrade_saved
from jepa_pipeline.config.render import to_yaml
from jepa_pipeline.config.run import RESULT_NEUTRAL_KEYS, RunConfig
from jepa_pipeline.files import atomic_write
from jepa_pipeline.training.checkpoint import CheckpointInfo, delete_leftovers, latest_info
from jepa_pipeline.training.environment import describe_environment
from jepa_pipeline.training.restarts import read_restarts

LOCK_TIMEOUT_S = 20.0
"""Seconds to wait for the lock: the workers of a run that was killed hold it until they notice."""
QUIET_S = 1.0
"""Seconds of waiting for the lock before the user is told."""
REQUEUED_LOCK_TIMEOUT_S = 120.0
"""Seconds to wait in a requeued job, or after a restart in place: a shared disk keeps the locks of a lost machine for a while."""

Difference = tuple[str, str, str]
"""A key, its value in the run folder and its value now."""


@contextmanager
def lock_run_folder(run: Path, log: Callable[[str], object] = print) -> Iterator[None]:
    """Create and lock a run folder, so that two processes never write to it. The lock ends with the process.

    Args:
        run: the run folder.
        log: called with a sentence if the lock does not come at once.

    Raises:
        UserError: another process is training in it.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("a+") as file:  # not "w", which would delete the name of its holder
        if not acquire_lock(file, run, log):
            raise UserError(
                f"another process is training in {run}: wait for it or stop it ({read_holder(file)}), or choose another name for "
                "this run"
            )
        file.truncate(0)
        file.write(f"{socket.gethostname()} {os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            if [path.name for path in run.iterdir()] == [".lock"]:  # the run was refused before it wrote anything
                shutil.rmtree(run)


def acquire_lock(file: IO[str], run: Path, log: Callable[[str], object]) -> bool:
    """Return whether the lock was acquired, without waiting for a process that lives; also true on a file system without locks."""
    restarted, requeued = read_restarts().count > 0, int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
    start, limit = time.monotonic(), REQUEUED_LOCK_TIMEOUT_S if restarted or requeued else LOCK_TIMEOUT_S
    reported = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # flock, since the kernel releases it even after SIGKILL
        except BlockingIOError:
            waited = time.monotonic() - start
            # after a restart the holder may be a process of the start before, which is just being ended
            if waited > limit or (read_holder(file).is_alive_here() and not restarted):
                return False
            if waited > QUIET_S and not reported:
                log(f"{run} is locked by {read_holder(file)}: waiting up to {limit:g} s for what is left of it")
                reported = True
            time.sleep(0.2)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            return True
        else:
            return True


class LockHolder(NamedTuple):
    """The process that wrote its name into a lock; empty in a lock of an earlier version."""

    host: str = ""
    pid: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" if self.host else "a process that has not given its name"

    def is_alive_here(self) -> bool:
        """Return whether it is a running process of this machine; a killed one may have left the lock to its data workers."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except ProcessLookupError:
            return False
        except OSError:  # another user's process, or a system without /proc
            return True
        return stat.rpartition(")")[2].split()[0] not in ("Z", "X")  # dead, and only not yet reaped


def read_holder(file: IO[str]) -> LockHolder:
    """Return the process that wrote its name into a lock."""
    file.seek(0)
    host, _, pid = file.read().strip().rpartition(" ")
    return LockHolder(host, int(pid)) if host and pid.isdecimal() else LockHolder()


def check_same_run(run: Path, info: CheckpointInfo, log: Callable[[str], object]) -> None:
    """Check that a run folder holds no checkpoint, or one of this run.

    Args:
        run: the run folder.
        info: describes this run, at any step.
        log: prints a sentence if torch's version differs.

    Raises:
        UserError: the newest checkpoint is of a run with other results, data or device; lists them in three columns.
    """
    saved = latest_info(run / "checkpoints")
    if saved is None:
        return
    if saved.torch != info.torch:
        log(f"{run} was trained with torch {saved.torch}, this is {info.torch}: results may differ in the last bits")
    differences = compare(saved, info)
    if differences:
        raise UserError(
            f"{run} holds a run that differs from this one:\n{format_columns([('key', 'there', 'here'), *differences])}\n"
            f"choose another name, restore the values, or delete that folder to start over; "
            f"free to change are {', '.join(key.removesuffix('.') for key in RESULT_NEUTRAL_KEYS)}"
        )


def compare(saved: CheckpointInfo, info: CheckpointInfo) -> list[Difference]:
    """Return everything in which two runs differ that can change their results."""
    saved_results = upgrade_saved(saved.results)  # an earlier version may have written them
    old, new = (
        {**results, "data.train (hash)": run.data, "trainer.accelerator (found)": run.device}
        for run, results in ((saved, saved_results), (info, info.results))
    )
    keys = sorted(old.keys() | new.keys())
    values = [(key, result_value(old, key), result_value(new, key)) for key in keys]
    return [(key, f"{there}", f"{here}") for key, there, here in values if there != here]


def format_columns(rows: list[Difference]) -> str:
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"  {key:<{first}}  {there:<{second}}  {here}" for key, there, here in rows)


def write_run_files(config: RunConfig, data_hash: str) -> None:
    """Write config.yaml and environment.json, and delete what a killed run left unfinished."""
    environment = {"config_hash": config.hash(), "data_hash": data_hash, **describe_environment()}
    delete_leftovers(config.folder / "checkpoints")
    atomic_write(config.folder / "environment.json", json.dumps(environment, indent=2) + "\n")
    atomic_write(config.folder / "config.yaml", to_yaml(config))
