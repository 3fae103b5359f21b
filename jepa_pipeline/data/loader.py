"""The DataLoader of training, and what it shares with that of evaluation. Workers change how fast batches come, never which."""

import ctypes
import multiprocessing
import signal
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkContext, ForkProcess
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from jepa_pipeline.batch import Batch
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.dataset import MaskSampler, SampleStream
from jepa_pipeline.data.media import check_kind
from jepa_pipeline.data.mixture import Mixture
from jepa_pipeline.data.sampler import Deal, Order
from jepa_pipeline.data.shards import Shards

PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""


def train_loader(
    config: RunConfig,
    masks: Sequence[MaskSampler],
    *,
    start_samples: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    uncut: bool = False,
) -> DataLoader[Batch]:
    """This rank's micro-batches from sample start_samples of the run to its end, in order.

    uncut: the batches hold whole images in place of views, for the device to cut; config.views.on_trainer says when.
    Masks are drawn in the workers, so mask samplers must be picklable where workers are spawned.

    Raises:
        UserError: the data is no whole data set, or holds videos for an encoder of images; a sample cannot be used, as
            SampleError, while iterating.
    """
    data, encoder = config.data, config.method.encoder
    sources = [Shards(source.path, max_open=2 * data.window_shards, cache=data.cache) for source in data.train]
    for shards in sources:
        check_kind(shards.location, shards.manifest.kind, config)
    skip = data.damage.policy == "skip"
    stream = SampleStream(sources, mixture(config, sources), config.views, encoder, masks, skip, uncut)
    optim = config.optim
    deal = Deal(optim.batch_size_global, optim.accumulate_steps, rank, world_size, start_samples, optim.total_samples)
    return loader(stream, deal, config.data.workers, config.data.prefetch_batches, pin_memory)


def mixture(config: RunConfig, sources: list[Shards]) -> Mixture:
    """The run's order of all samples."""
    orders = [Order(shards.counts, config.seed, config.data.window_shards, source) for source, shards in enumerate(sources)]
    return Mixture(orders, [source.weight for source in config.data.train])


def loader(
    dataset: Dataset[Batch], batches: Deal | list[list[int]], workers: int, prefetch: int = 2, pin_memory: bool = False
) -> DataLoader[Batch]:
    forked = workers > 0 and multiprocessing.get_start_method() == "fork"
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=whole_batch,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=workers > 0,
        worker_init_fn=deaf_worker if forked else calm_worker,
        multiprocessing_context=WorkerContext() if forked else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else each pass would draw from, and so change, torch's global generator
    )


def whole_batch(batch: Any) -> Any:
    """The data sets return whole batches; there is nothing to collate."""
    return batch


def one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def calm_worker(worker: int) -> None:
    """One thread, and not ended by Ctrl-C, which reaches every process of a terminal."""
    one_thread(worker)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def deaf_worker(worker: int) -> None:
    """One thread, and deaf to every signal of the parent's.

    Slurm signals every process of a job. A worker that obeyed would take the training process down before it reaches the step
    boundary at which it ends in order.
    """
    calm_worker(worker)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """Have Linux kill this process when the one that forked it is gone; else torch's worker looks for it every few seconds."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Worker(ForkProcess):
    """A process that its parent ends by killing it, for it does not hear of anything milder."""

    def start(self) -> None:
        super().start()
        self._popen.terminate = self._popen.kill  # pyright: ignore[reportAttributeAccessIssue]


class WorkerContext(ForkContext):
    """Makes such processes. Only where processes are forked, which is where Slurm is; elsewhere workers end as usual."""

    Process = Worker
