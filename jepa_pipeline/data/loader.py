"""The DataLoaders of training and of evaluation. Workers change how fast batches come, never which."""

import signal
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from jepa_pipeline.batch import Batch
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.collate import ImageList, ImageStream, MaskSampler
from jepa_pipeline.data.order import Deal, Order
from jepa_pipeline.data.shards import Shards


def train_loader(
    config: RunConfig,
    masks: MaskSampler | None,
    *,
    start_samples: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """This rank's micro-batches from sample start_samples of the run to its end, in order.

    Masks are drawn in the workers, so a mask sampler must be picklable where workers are spawned.

    Raises:
        UserError: the data is no whole data set; a sample cannot be used, as SampleError, while iterating.
    """
    shards = Shards(Path(config.data.train[0].path), max_open=4 * config.data.window_shards)
    order = Order(shards.counts, config.seed, config.data.window_shards)
    stream = ImageStream(shards, order, config.views, config.method.encoder.image_size, masks)
    optim = config.optim
    deal = Deal(optim.batch_size_global, optim.accumulate_steps, rank, world_size, start_samples, optim.total_samples)
    return loader(stream, deal, config.data.workers, config.data.prefetch_batches, pin_memory)


def eval_loader(shards: Shards, image_size: int, batch_size: int, workers: int) -> DataLoader[Batch]:
    """Every sample once as its centred view, in the order of the shards; the last batch may be smaller."""
    total = shards.manifest.samples
    batches = [list(range(start, min(start + batch_size, total))) for start in range(0, total, batch_size)]
    return loader(ImageList(shards, image_size), batches, workers)


def loader(
    dataset: Dataset[Batch], batches: Deal | list[list[int]], workers: int, prefetch: int = 2, pin_memory: bool = False
) -> DataLoader[Batch]:
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=whole_batch,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=workers > 0,
        worker_init_fn=calm_worker,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else each pass would draw from, and so change, torch's global generator
    )


def whole_batch(batch: Any) -> Any:
    """The data sets return whole batches; there is nothing to collate."""
    return batch


def calm_worker(worker: int) -> None:
    """One thread, and none of the parent's signal handlers.

    Slurm and Ctrl-C signal every process. A worker that obeyed would take the training process down before it reaches the step
    boundary at which it ends in order; when that has gone, its workers go by themselves.
    """
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # torch itself ends workers by this one
