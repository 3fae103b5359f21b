"""What the data path of a run is measured against: a bare loop and a plain webdataset pipeline, over the same images."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from io import BytesIO
from itertools import cycle, islice
from multiprocessing import active_children, get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from webdataset.compat import WebDataset
from webdataset.handlers import ignore_and_continue

from jepa_pipeline.batch import Batch, Masks
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.views import ViewsConfig
from jepa_pipeline.data.collate import MaskSampler
from jepa_pipeline.data.loader import deaf_worker, mixture, train_loader
from jepa_pipeline.data.samples import IMAGES
from jepa_pipeline.data.shards import SampleError, Shards
from jepa_pipeline.data.views import empty_pixels, padded, random_resized_crop_box

HELD_BATCHES = 8
GENERATOR = np.random.default_rng(0)
"""Belongs to no sample, so that its numbers cost as little as can be."""


class Rivals:
    """Three ways to the images of a configuration, each an endless iterator over how many came in a batch.

    With workers they come from so many processes, without from this one. The configuration is that of one device, with
    micro-batches of its global batch. Making it fetches the first shards of a URL.

    The rivals cut every view that the run has, but change no colours: what the run's whole path needs longer is the price of
    those. Where the trainer is to cut (uncut), all three only decode, and the webdataset pipeline pads.
    """

    def __init__(self, config: RunConfig, masks: Sequence[MaskSampler], uncut: bool = False) -> None:
        self.config = config
        self.masks = masks
        self.uncut = uncut
        self.batch = config.optim.batch_size_global
        sizes = config.views.sizes(config.method.encoder.image_size)
        self.crop = bare_image if uncut else partial(bare_views, views=config.views, sizes=sizes)
        source = Shards(config.data.train[0].path, cache=config.data.cache)
        order = mixture(config, [source]).orders[0]
        window = order.shards_from(0)[: order.window_shards]
        for shard in window:
            source.open(shard)
        files = [source.manifest.shards[shard] for shard in window]
        self.tars = [source.cache.tar(file) if source.cache else Path(source.tars) / file.file for file in files]
        positions = order.samples(0, HELD_BATCHES * self.batch)
        self.held = read_images(source, positions.shard.tolist(), positions.member.tolist())

    def loader(self, workers: int) -> DataLoader[Batch]:
        """That of a run."""
        data = self.config.data.model_copy(update={"workers": workers})
        return train_loader(self.config.model_copy(update={"data": data}), self.masks, uncut=self.uncut)

    def whole(self, workers: int) -> Iterator[int]:
        """The path of a run, with views, masks, labels and keys."""
        return (len(batch.keys) for batch in self.loader(workers))

    def bare_loop(self, workers: int) -> Iterator[int]:
        """Decoding and cropping alone, of images that are in memory; decoding alone where the trainer cuts."""
        context = get_context()
        done = context.SimpleQueue()
        for _ in range(workers):
            context.Process(target=crop_for_ever, args=(self.crop, self.held, self.batch, done), daemon=True).start()
        return iter(done.get, 0) if workers else crop_all(self.crop, self.held, self.batch)

    def webdataset(self, workers: int) -> Iterator[int]:
        """Plain webdataset on the same shards and to the same batches with masks, but without shuffling, labels and keys."""
        pipeline: Any = (
            WebDataset(list(map(str, self.tars)), resampled=True, shardshuffle=False, handler=ignore_and_continue)
            .to_tuple(";".join(IMAGES), handler=ignore_and_continue)
            .map_tuple(self.crop, handler=ignore_and_continue)
            .batched(self.batch, collation_fn=partial(collate, masks=self.masks, uncut=self.uncut), partial=False)
        )
        prefetch = self.config.data.prefetch_batches if workers else None
        loader = DataLoader(
            pipeline,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=prefetch,
            worker_init_fn=deaf_worker if workers else None,
        )
        return (len(views[0]) for views, _ in loader)


def read_images(shards: Shards, numbers: Sequence[int], members: Sequence[int]) -> list[bytes]:
    """The compressed images of samples, of those that can be read."""
    images = []
    for shard, member in zip(numbers, members, strict=True):
        with suppress(SampleError):
            images.append(shards.read(shard, member).media)
    return images


def bare_image(data: bytes) -> list[UInt8[np.ndarray, "H W C"]]:
    """The whole image, by the one call of Pillow that takes most of the time in any pipeline that leaves views to a device."""
    return [np.asarray(Image.open(BytesIO(data)).convert("RGB"))]


def bare_views(data: bytes, views: ViewsConfig, sizes: Sequence[int]) -> list[UInt8[np.ndarray, "H W C"]]:
    """A random crop for each view, by the two calls of Pillow that take most of the time in any other pipeline."""
    image, cut = Image.open(BytesIO(data)).convert("RGB"), []
    for kind, size in zip(views.kinds, sizes, strict=True):
        box = random_resized_crop_box(image.size, kind, GENERATOR)
        cut.append(np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box)))
    return cut


def crop_all(crop: Callable[[bytes], object], images: Sequence[bytes], batch: int) -> Iterator[int]:
    endless = cycle(images)
    while True:
        for data in islice(endless, batch):
            crop(data)
        yield batch


def crop_for_ever(crop: Callable[[bytes], object], images: Sequence[bytes], batch: int, done: "SimpleQueue[int]") -> None:
    deaf_worker(0)
    for count in crop_all(crop, images, batch):
        done.put(count)


def collate(
    rows: Sequence[tuple[list[UInt8[np.ndarray, "H W C"]]]], masks: Sequence[MaskSampler], uncut: bool
) -> tuple[list[UInt8[Tensor, "B C _ _"]], list[Masks]]:
    stacked = [padded(images, len(images)) if uncut else stack(images) for images in zip(*(row for (row,) in rows), strict=True)]
    return stacked, [sampler([GENERATOR] * len(rows), 0) for sampler in masks]


def stack(views: Sequence[UInt8[np.ndarray, "S S C"]]) -> UInt8[Tensor, "B C S S"]:
    pixels = empty_pixels(len(views), len(views[0]))
    for place, view in zip(pixels, views, strict=True):
        place[:] = view.transpose(2, 0, 1)
    return torch.from_numpy(pixels)


class Team:
    """The workers of one rival. They are stopped whenever it is not their turn, so that the others have the cores to themselves.

    A turn is the same number of batches from every worker, so many that it takes turn_s seconds or more.
    """

    def __init__(self, start: Callable[[int], Iterator[int]], workers: int, turn_s: float) -> None:
        before = {process.pid for process in active_children()}
        self.batches = start(workers)
        self.processes = [process for process in active_children() if process.pid not in before]
        self.turn = workers
        seconds = 0.0
        while seconds < turn_s:  # the first turns warm up
            began = perf_counter()
            self.speed()
            seconds = perf_counter() - began
            self.turn = self.turn if seconds >= turn_s else 2 * self.turn

    def speed(self) -> float:
        """Images/s in one turn."""
        self.signal(signal.SIGCONT)
        speed = timed(lambda: sum(islice(self.batches, self.turn)))
        self.signal(signal.SIGSTOP)
        return speed

    def signal(self, number: signal.Signals) -> None:
        for process in self.processes:
            if process.pid and process.is_alive():
                os.kill(process.pid, number)

    def leave(self) -> None:
        self.signal(signal.SIGCONT)
        self.batches = iter(())  # a DataLoader that nobody holds ends its workers
        for process in self.processes:
            process.kill()


def timed(work: Callable[[], int]) -> float:
    """Images/s of work that returns how many images it made."""
    began = perf_counter()
    images = work()
    return images / (perf_counter() - began)
