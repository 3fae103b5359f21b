"""Work on the parts of a data set by many processes, in order and with a progress bar."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from itertools import islice
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Cores this process may use, which on a cluster are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    pool: Executor, workers: int, function: Callable[[Item], Result], items: Sequence[Item], chunk: int = 1
) -> Iterator[Result]:
    """The function of every item, in their order, computed by the pool only so far ahead that memory stays bounded.

    chunk: items a process works on between two messages. The pool starts at once, so that it does not fork a process in which a
    progress bar's thread is running.
    """
    tasks = (items[start : start + chunk] for start in range(0, len(items), chunk))
    submitted = (pool.submit(apply, function, task) for task in tasks)
    return results(deque(islice(submitted, 2 * workers)), submitted)


def results(pending: deque[Future[list[Result]]], submitted: Iterator[Future[list[Result]]]) -> Iterator[Result]:
    while pending:
        yield from pending.popleft().result()
        pending.extend(islice(submitted, 1))


def apply(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]


def progress(items: Iterable[Item], title: str, total: int) -> Iterable[Item]:
    return track(items, title, total, console=Console(stderr=True))
