"""A DataLoader whose worker processes end with the run, and never change what it yields."""

import multiprocessing
import shutil
import signal
import sys
from collections.abc import Iterator
from functools import partial
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.queues import Queue
from pathlib import Path
from traceback import extract_tb
from types import TracebackType
from typing import Any

import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, Dataset

from jepa_pipeline.batch import Batch
from jepa_pipeline.config.data import SLOW_S
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.reading import Current, Reading, name_slow
from jepa_pipeline.data.sampler import DistributedBatchSampler
from jepa_pipeline.data.summary import print_lines
from jepa_pipeline.data.worker_pool import die_with_parent

SHARED_MEMORY = Path("/dev/shm")
"""The file system in which workers put the tensors of batches."""


def build_loader(
    dataset: Dataset[Batch],
    batch_sampler: DistributedBatchSampler | list[list[int]],
    workers: int,
    prefetch: int = 2,
    pin_memory: bool = False,
    timeout_s: float | None = None,
) -> "Loader":
    """Return a loader of the batches that a sampler lists.

    Args:
        dataset: of the batches.
        batch_sampler: the indices of each batch.
        workers: processes that load; 0: this one does.
        prefetch: batches that each prepares ahead.
        pin_memory: copy batches to pinned memory.
        timeout_s: seconds without a batch after which iterating raises UserError, if there are workers; None: never, since a
            watchdog sees to it.
    """
    forked = workers > 0 and multiprocessing.get_start_method() == "fork"
    reading = Reading(workers)
    if not workers:
        Current.attach(reading, 0)
    loader = (Loader if timeout_s is None else TimedLoader)(
        dataset,
        batch_sampler=batch_sampler,
        collate_fn=return_batch,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=workers > 0,
        worker_init_fn=partial(init_forked_worker if forked else init_worker, reading=reading),
        multiprocessing_context=WorkerContext() if forked else None,
        pin_memory=pin_memory,
        timeout=timeout_s or 0 if workers else 0,
        generator=torch.Generator(),  # else each pass would draw from, and so change, torch's global generator
    )
    loader.reading = reading
    return loader


class Loader(DataLoader[Batch]):
    """A DataLoader. reading: what its workers read."""

    reading: Reading


class TimedLoader(Loader):
    """A loader that names samples that take long, and raises UserError if no batch comes for its timeout."""

    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        with name_slow(self.reading, SLOW_S, lambda sentence: print_lines([sentence])):
            try:
                yield from super().__iter__()
            except RuntimeError as error:
                if "DataLoader timed out" not in str(error):  # torch has no class for it
                    raise
                found = self.reading.describe() or "no data worker is reading"
                raise UserError(
                    f"no batch came for {self.timeout:g} s: {found}; see that its disk or server answers, then run the same "
                    "command again"
                ) from error


def return_batch(batch: Any) -> Any:
    """Collate nothing: the data sets' __getitems__ returns a Batch, not a list of samples."""
    return batch


def init_worker(worker: int, reading: Reading | None = None) -> None:
    """Use one thread, and ignore Ctrl-C, hang-ups and user signals, which a terminal or Slurm sends to every process."""
    if reading is not None:
        Current.attach(reading, worker)
    torch.set_num_threads(1)
    sys.excepthook = ignore_lost_consumer
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def ignore_lost_consumer(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error of a worker's thread, unless it is that the process that takes the batches has left, as after Ctrl-C."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def init_forked_worker(worker: int, reading: Reading | None = None) -> None:
    """Ignore SIGTERM too, and end with the parent; torch's workers only check for it every few seconds.

    Slurm sends SIGTERM to every process of a job. A worker that obeyed would take the training process down before the step
    boundary at which it saves a checkpoint and stops.
    """
    init_worker(worker, reading)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent()


class Worker(ForkProcess):
    """A process whose terminate() kills it, because it ignores SIGTERM, which torch sends to workers that hang."""

    def start(self) -> None:
        super().start()
        # _popen is private; terminate() of the process delegates to it, and so does multiprocessing's own exit handler
        self._popen.terminate = self._popen.kill  # pyright: ignore[reportAttributeAccessIssue]


class BatchQueue(Queue):
    """A queue from a worker to training. A batch that cannot be sent becomes an error there, so that nobody waits for it for ever.

    multiprocessing prints a traceback in the worker and drops the batch.
    """

    # the hook is private, but made to be overridden, as concurrent.futures does
    def _on_queue_feeder_error(self, e: Exception, obj: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not isinstance(obj, tuple) or isinstance(obj[1], ExceptionWrapper):  # sending failed, and so would sending an error
            super()._on_queue_feeder_error(e, obj)  # pyright: ignore[reportAttributeAccessIssue]
            return
        error = unsendable(e)
        self.put((obj[0], ExceptionWrapper((type(error), error, e.__traceback__), "in a data worker")))


def unsendable(error: Exception) -> Exception:
    """Return a sentence for a batch that could not be shared with the training process, if the reason is known."""
    text, fewer = str(error), "use fewer workers or prefetched batches (data.workers, data.prefetch_batches)"
    if "No space left" in text or "Cannot allocate memory" in text:  # torch has no exception of its own for this
        usage = shutil.disk_usage(SHARED_MEMORY)
        return UserError(
            f"{SHARED_MEMORY} is too small for the batches of the data workers ({usage.free / 1e6:,.3g} MB of "
            f"{usage.total / 1e6:,.3g} MB are free): enlarge it (docker run --shm-size=16g), or {fewer}"
        )
    if "Too many open files" in text:
        return UserError(f"a data worker may open no more files, of which each batch takes some: raise `ulimit -n`, or {fewer}")
    return error


class WorkerContext(ForkContext):
    """A multiprocessing context that starts such workers; for fork only, where init_forked_worker ignores SIGTERM."""

    Process = Worker

    def Queue(self, maxsize: int = 0) -> BatchQueue:
        """Return the queue of a worker's batches, and of the numbers that it is sent."""
        return BatchQueue(maxsize, ctx=self)


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that were being handled when it was raised: Lightning's teardown may fail after a first error."""
    yield error
    while error.__context__ is not None:
        error = error.__context__
        yield error


def worker_died(error: BaseException) -> bool:
    """Return whether an error of torch's DataLoader means that a worker process died, for which it has no class of its own."""
    text = str(error)
    if text.startswith("Caught "):  # an exception that a worker or the pinning thread raised and survived
        return "in pin memory thread" in text
    return "DataLoader worker" in text or any(frame.name == "_try_get_data" for frame in extract_tb(error.__traceback__))
