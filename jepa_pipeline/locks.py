"""Locks of folders, so that two processes never write to one. A lock ends with its process, and names it while it lasts."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from jepa_pipeline.files import LOCK, acquire, name_errors

LOCK_TIMEOUT_S = 20.0
"""Seconds to wait for the lock: the workers of a process that was killed hold it until they notice."""
QUIET_S = 1.0
"""Seconds of waiting for the lock before the user is told."""
REQUEUED_LOCK_TIMEOUT_S = 120.0
"""Seconds to wait in a requeued job, or after a restart in place: a shared disk keeps the locks of a lost machine for a while."""


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


class Locked(Exception):
    """A folder is locked by another process, which its text names."""


@contextmanager
def lock_folder(folder: Path, log: Callable[[str], object] = print) -> Iterator[None]:
    """Create and lock a folder. The lock ends with the process.

    Args:
        folder: in which the lock is a hidden file.
        log: called with a sentence if the lock does not come at once.

    Raises:
        Locked: another process has the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", errors="replace") as file:  # not "w", which would delete the name of its holder
        if not wait_for_lock(file, folder, log) or not is_in(folder, file):
            raise Locked(f"{read_holder(file)}")
        with name_errors(folder / LOCK):
            file.truncate(0)
            file.write(f"{socket.gethostname()} {os.getpid()}\n")
            file.flush()
        yield


def wait_for_lock(file: IO[str], folder: Path, log: Callable[[str], object]) -> bool:
    """Return whether the lock was acquired, without waiting for a process that lives; also true on a file system without locks."""
    requeued, restarted = (int(os.environ.get(f"{by}_RESTART_COUNT", "0")) > 0 for by in ("SLURM", "TORCHELASTIC"))
    start, limit = time.monotonic(), REQUEUED_LOCK_TIMEOUT_S if requeued or restarted else LOCK_TIMEOUT_S
    reported = False
    while acquire(file) is False:
        waited = time.monotonic() - start
        # after a restart the holder may be a process of the start before, which is just being ended
        if waited > limit or (read_holder(file).is_alive_here() and not restarted):
            return False
        if waited > QUIET_S and not reported:
            log(f"{folder} is locked by {read_holder(file)}: waiting up to {limit:g} s for what is left of it")
            reported = True
        time.sleep(0.2)
    return True


def is_in(folder: Path, file: IO[str]) -> bool:
    """Return whether an open lock is still that of the folder; its last holder may have renamed or deleted the folder."""
    try:
        return os.path.samestat((folder / LOCK).stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def read_holder(file: IO[str]) -> LockHolder:
    """Return the process that wrote its name into a lock."""
    file.seek(0)
    host, _, pid = file.read().strip().rpartition(" ")
    return LockHolder(host, int(pid)) if host and pid.isdecimal() else LockHolder()
