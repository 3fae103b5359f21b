"""Work of several processes that succeeds on all of them or raises on all of them, so that none waits for one that failed."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from threading import Thread
from typing import TypeVar

import torch
from torch.distributed import ProcessGroup

from jepa_pipeline.config.errors import Interrupted, UserError
from jepa_pipeline.distributed import all_gather_object, rank, world_size
from jepa_pipeline.files import DamagedFile

PICKLABLE = (UserError, Interrupted, DamagedFile, RuntimeError, torch.OutOfMemoryError, MemoryError)
"""Errors that are raised on other processes as they are, as are all OSErrors."""

BUSY_S = 5.0
"""Seconds after which a process that works tells the others again that it lives."""

T = TypeVar("T")


class RemoteError(Exception):
    """An error of another process whose own class may not pickle."""


def run_on_rank_zero(function: Callable[[], T]) -> T:
    """Run a function on rank 0 alone; return its result, or raise its error, on all processes."""
    return all_gather_object(run_on_all_ranks(lambda: function() if rank() == 0 else None))[0]


def run_on_all_ranks(function: Callable[[], T], group: ProcessGroup | None = None) -> T:
    """Run a function on each process and return this one's result; raise on all processes if it raised on any."""
    try:
        result, error = function(), None
    except Exception as caught:
        result, error = None, caught
    for first in all_gather_object(picklable(error), group):
        if first is not None:
            raise first from None if first is error else error
    return result  # pyright: ignore[reportReturnType]


def run_while_others_wait(function: Callable[[], object] | None) -> None:
    """Run a function that may take longer than a collective waits for. All processes must call it, and return when all are done.

    Args:
        function: what this process does meanwhile; None: it waits.
    """
    if world_size() == 1:
        if function is not None:
            function()
        return
    done: Future[object] = Future()
    if function is None:
        done.set_result(None)
    else:
        Thread(target=fulfill, args=(done, function), daemon=True).start()  # no executor: Python would wait for it after Ctrl-C
    while not all(all_gather_object(bool(wait([done], BUSY_S).done))):
        pass
    done.result()


def fulfill(future: "Future[object]", function: Callable[[], object]) -> None:
    """Give a future the result or the error of a function."""
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)


def picklable(error: Exception | None) -> Exception | None:
    """Return an error as it can be sent to other processes, with a note that says where it was raised."""
    if world_size() == 1 or error is None:
        return error
    if isinstance(error, UserError) and type(error) not in PICKLABLE:
        error = UserError(str(error))
    elif not isinstance(error, OSError) and type(error) not in PICKLABLE:
        error = RemoteError(f"{type(error).__name__}: {error}")
    error.add_note(f"rank {rank()}, host {socket.gethostname()}")
    return error


@contextmanager
def raise_on_all_ranks(name_ranks: bool = True) -> Iterator[None]:
    """Raise a UserError of any process on all of them. All must enter.

    Unlike `run_on_all_ranks`, which raises the first error, this tells every different one.

    Args:
        name_ranks: put before each error the ranks that raised it, unless all did.

    Raises:
        UserError: the errors of all processes, a line each.
    """
    error: UserError | None = None
    try:
        yield
    except UserError as caught:
        error = caught
    texts: list[str | None] = all_gather_object(None if error is None else str(error))
    if error is not None and texts == [str(error)] * len(texts):
        raise error
    ranks = {text: [str(number) for number, other in enumerate(texts) if other == text] for text in texts if text is not None}
    if ranks:
        lines = (f"rank{'s' * (len(ranks[text]) > 1)} {', '.join(ranks[text])}: {text}" for text in sorted(ranks))
        raise UserError("\n".join(lines if name_ranks else sorted(ranks))) from None
