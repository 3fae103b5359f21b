"""Work that several processes do together: what goes wrong on one, all hear of."""

import socket
from collections.abc import Callable
from typing import TypeVar

import torch
from torch.distributed import ProcessGroup

from jepa_pipeline.config.errors import Interrupted, UserError
from jepa_pipeline.distributed import collect, rank, world_size
from jepa_pipeline.training.files import Damage

PORTABLE = (UserError, Interrupted, Damage, RuntimeError, torch.OutOfMemoryError, MemoryError)
"""Errors that other processes can raise as they are; as can those of the system."""

T = TypeVar("T")


def by_first(work: Callable[[], T]) -> T:
    """What a piece of work gives that the first process alone does; what it raises, all raise."""
    return collect(agreed(lambda: work() if rank() == 0 else None))[0]


def agreed(work: Callable[[], T], group: ProcessGroup | None = None) -> T:
    """What a piece of work gives on this process, once it is done on all; what one of them raises, all raise."""
    try:
        result, error = work(), None
    except Exception as caught:
        result, error = None, caught
    for first in collect(portable(error), group):
        if first is not None:
            raise first from None if first is error else error
    return result  # pyright: ignore[reportReturnType]


class Failure(Exception):
    """An error of one process that the others know by its text alone."""


def portable(error: Exception | None) -> Exception | None:
    """An error as other processes can learn of it, with the place where it was raised in a note."""
    if world_size() == 1 or error is None:
        return error
    if isinstance(error, UserError) and type(error) not in PORTABLE:
        error = UserError(str(error))
    elif not isinstance(error, OSError) and type(error) not in PORTABLE:
        error = Failure(f"{type(error).__name__}: {error}")
    error.add_note(f"rank {rank()}, host {socket.gethostname()}")
    return error
