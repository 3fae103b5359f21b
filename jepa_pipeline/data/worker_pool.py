"""Work on the parts of a data set in many processes, in order and with a progress bar."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from math import ceil
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import TypeVar

from jepa_pipeline.config.errors import UserError

PR_SET_PDEATHSIG = 1
"""The option of prctl(2) that sets the signal a process gets when its parent ends."""

Item = TypeVar("Item")
Result = TypeVar("Result")


CGROUP_CORES = Path("/sys/fs/cgroup/cpu.max")
"""The quota and the period of a container's processor time."""


def available_cores() -> int:
    """Return the number of cores this process may use; on a cluster or in a container the machine has more."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    quota, _, period = CGROUP_CORES.read_text().partition(" ") if CGROUP_CORES.is_file() else ("max", "", "")
    limits = [int(given)] if given.isdecimal() else []
    limits += [ceil(int(quota) / int(period))] if quota.isdecimal() else []
    return max(1, min([cores, *limits]))


def count_workers(wanted: int, processes: int, log: Callable[[str], object]) -> int:
    """Return how many data workers a process may start: no more than there are cores for it.

    Args:
        wanted: workers that were asked for.
        processes: processes that share the cores, each with its own workers.
        log: is told if there are fewer.
    """
    cores = available_cores()
    allowed = min(wanted, max(1, cores // processes))
    if allowed < wanted:
        shared = f" and {processes} processes" if processes > 1 else ""
        log(
            f"{wanted} data workers were asked for, but there are {cores} cores{shared}: {allowed} are started; lower their "
            "number, or give more cores (Slurm's --cpus-per-task)"
        )
    return allowed


@contextmanager
def process_pool(workers: int) -> Iterator[Executor]:
    """Yield a pool of processes, none of which outlasts this one or an error in it.

    Raises:
        UserError: one of them was killed.
    """
    pool = ProcessPoolExecutor(workers, initializer=init_pool_process)
    try:
        yield pool
    except BaseException as error:
        processes = [*(pool._processes or {}).values()]
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:  # the end of this one would wait for what they are doing
            process.kill()
        for process in processes:  # until then they share the locks of this one
            process.join()
        if isinstance(error, BrokenProcessPool):
            raise UserError(
                "a process that read or wrote samples was killed, probably for lack of memory: give fewer --workers, then run the "
                "same command again"
            ) from error
        raise
    pool.shutdown()


def init_pool_process() -> None:
    """End with the parent, whatever ends it; leave Ctrl-C, which a terminal sends to every process, to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()


def die_with_parent(starter: int | None = None) -> None:
    """Have this process killed as soon as its parent is gone, even by SIGKILL.

    Args:
        starter: process that is starting this one by subprocess.Popen, whose preexec_fn this is; None: multiprocessing started it.
    """
    parent = multiprocessing.parent_process() if starter is None else None
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if starter is None and parent is not None:
            starter = parent.pid if multiprocessing.get_start_method() == "fork" else None  # else a forkserver's child
        gone = os.getppid() != starter if starter is not None else parent is not None and not parent.is_alive()
        if gone:  # before the call
            os._exit(1)
    elif parent is not None:
        Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), name="parent", daemon=True).start()


def parallel_map(
    pool: Executor, workers: int, function: Callable[[Item], Result], items: Sequence[Item], chunksize: int = 1
) -> Iterator[Result]:
    """Return the function of every item, in order. Executor.map does the same but submits everything at once.

    Args:
        pool: runs the function; at most two chunks per worker are submitted ahead, so that memory stays bounded.
        workers: processes of the pool.
        function: picklable.
        items: its arguments.
        chunksize: items a process works on between two messages.
    """
    chunks = (items[start : start + chunksize] for start in range(0, len(items), chunksize))
    submitted = (pool.submit(apply, function, chunk) for chunk in chunks)
    # Submitted here and not in the generator, so that the pool does not fork while a progress bar's thread is running.
    pending = deque(islice(submitted, 2 * workers))

    def results() -> Iterator[Result]:
        while pending:
            yield from pending.popleft().result()
            pending.extend(islice(submitted, 1))

    return results()


def apply(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]
