"""Work on the parts of a data set in many processes, in order and with a progress bar."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from itertools import islice
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Return the number of cores this process may use; on a cluster the machine has more."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def track_progress(items: Iterable[Item], title: str, total: int) -> Iterable[Item]:
    """Show a progress bar on stderr, so that stdout holds results alone."""
    return track(items, title, total, console=Console(stderr=True))
