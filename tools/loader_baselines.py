"""What the data path of a run is measured against: a bare loop and a plain webdataset pipeline, over the same images or videos."""

import os
import signal
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from io import BytesIO
from itertools import cycle, islice
from multiprocessing import active_children, get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

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
from jepa_pipeline.data.dataset import MaskSampler
from jepa_pipeline.data.loader import build_batch_sampler, build_mixture, init_forked_worker, train_loader
from jepa_pipeline.data.sample import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from jepa_pipeline.data.shards import SampleError, Shards
from jepa_pipeline.data.video import import_av
from jepa_pipeline.data.views import pad_images, random_resized_crop_box

Cut = list[UInt8[np.ndarray, "*T H W C"]]
"""The views of one image or video."""

Unit = Literal["images", "clips"]
"""What a configuration trains on."""

HELD_BATCHES = 8
HELD_BYTES = 1 << 28
"""No more is held in memory, for videos may be large."""
GENERATOR = np.random.default_rng(0)
"""Belongs to no sample, so that its numbers cost as little as can be."""


class Rivals:
    """Three ways to the images or clips of a configuration, each an endless iterator over how many came in a batch.

    With workers they come from so many processes, without from this one. The configuration is that of one device, with
    micro-batches of its global batch. Making it fetches the first shards of a URL.

    The rivals cut every view that the run has, but change no colors: what the run's whole path needs longer is the price of
    those. Where the trainer is to cut them (on_trainer), which it never does with clips, all three only decode, and the
    webdataset pipeline pads.
    """

    def __init__(self, config: RunConfig, masks: Sequence[MaskSampler], on_trainer: bool = False) -> None:
        self.config = config
        self.masks = masks
        self.unit: Unit = unit_of(config)
        self.uncut = on_trainer and self.unit == "images"
        self.batch = config.optim.batch_size_global
        source = Shards(config.data.train[0].path, cache=config.data.cache)
        self.videos = source.manifest.kind == "videos"
        self.crop = bare_image if self.uncut else self.bare_crop()
        sampler = build_mixture(config.data, config.seed, [source]).samplers[0]
        window = sampler.upcoming_shards(0)[: sampler.window_shards]
        for shard in window:
            source.open(shard)
        files = [source.manifest.shards[shard] for shard in window]
        self.tars = [source.cache.tar_path(file) if source.cache else Path(source.tars) / file.file for file in files]
        positions = sampler.locate(0, HELD_BATCHES * self.batch)
        self.held = read_media(source, positions.shard.tolist(), positions.member.tolist())

    def bare_crop(self) -> Callable[[bytes], Cut]:
        """What makes all views out of the bytes of an image or video."""
        views, encoder = self.config.views, self.config.method.encoder
        sizes = views.sizes(encoder.image_size)
        if encoder.modality.has_time:
            return partial(bare_clips if self.videos else still_clips, views=views, sizes=sizes, frames=encoder.frames)
        return partial(bare_views, views=views, sizes=sizes)

    def loader(self, workers: int) -> DataLoader[Batch]:
        """That of a run."""
        data = self.config.data.model_copy(update={"workers": workers})
        config, batch_sampler = self.config, build_batch_sampler(self.config.optim)
        return train_loader(
            data, config.views, config.method, self.masks, batch_sampler, seed=config.seed, crop_on_device=self.uncut
        )

    def whole(self, workers: int) -> Iterator[int]:
        """The path of a run, with views, masks, labels and keys."""
        return (len(batch.keys) for batch in self.loader(workers))

    def bare_loop(self, workers: int) -> Iterator[int]:
        """Decoding and cropping alone, of what is in memory; decoding alone where the trainer cuts."""
        context = get_context()
        done = context.SimpleQueue()
        for _ in range(workers):
            context.Process(target=crop_for_ever, args=(self.crop, self.held, self.batch, done), daemon=True).start()
        return iter(done.get, 0) if workers else crop_all(self.crop, self.held, self.batch)

    def webdataset(self, workers: int) -> Iterator[int]:
        """Plain webdataset on the same shards and to the same batches with masks, but without shuffling, labels and keys."""
        pipeline: Any = (
            WebDataset(list(map(str, self.tars)), resampled=True, shardshuffle=False, handler=ignore_and_continue)
            .to_tuple(";".join(VIDEO_EXTENSIONS if self.videos else IMAGE_EXTENSIONS), handler=ignore_and_continue)
            .map_tuple(self.crop, handler=ignore_and_continue)
            .batched(self.batch, collation_fn=partial(collate, masks=self.masks, uncut=self.uncut), partial=False)
        )
        prefetch = self.config.data.prefetch_batches if workers else None
        loader = DataLoader(
            pipeline,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=prefetch,
            worker_init_fn=init_forked_worker if workers else None,
        )
        return (len(views[0]) for views, _ in loader)


def unit_of(config: RunConfig) -> Unit:
    encoder = config.method.encoder
    return "clips" if encoder.modality.has_time else "images"


def read_media(shards: Shards, numbers: Sequence[int], members: Sequence[int]) -> list[bytes]:
    """The compressed images or videos of samples, of those that can be read, up to HELD_BYTES."""
    media, left = [], HELD_BYTES
    for shard, member in zip(numbers, members, strict=True):
        with suppress(SampleError):
            media.append(shards.read(shard, member).media)
            left -= len(media[-1])
        if left < 0:
            break
    return media


def bare_image(data: bytes) -> Cut:
    """The whole image, by the one call of Pillow that takes most of the time in any pipeline that leaves views to a device."""
    return [np.asarray(Image.open(BytesIO(data)).convert("RGB"))]


def bare_views(data: bytes, views: ViewsConfig, sizes: Sequence[int]) -> Cut:
    """A random crop for each view, by the two calls of Pillow that take most of the time in any other pipeline."""
    image, cut = Image.open(BytesIO(data)).convert("RGB"), []
    for kind, size in zip(views.kinds, sizes, strict=True):
        box = random_resized_crop_box(image.size, kind, GENERATOR)
        cut.append(np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box)))
    return cut


def still_clips(data: bytes, views: ViewsConfig, sizes: Sequence[int], frames: int) -> Cut:
    """The random crops of an image, each as a clip that stands still."""
    return [np.broadcast_to(view, (frames, *view.shape)) for view in bare_views(data, views, sizes)]


def bare_clips(data: bytes, views: ViewsConfig, sizes: Sequence[int], frames: int) -> Cut:
    """A random clip for each view, as one writes it with PyAV: begin at the key frame before a random start, decode up to the
    clip's last frame, and give each of its frames one conversion to RGB and two calls of Pillow.

    Frames are found by their time at the mean rate, so where the rate varies they are not quite those of a run.
    """
    av = import_av()
    with av.open(BytesIO(data)) as container:
        stream, reformatter = container.streams.video[0], av.video.reformatter.VideoReformatter()
        stream.thread_count = 1
        rate, begin = float(stream.average_rate), stream.start_time or 0
        count = stream.frames or max(1, round(container.duration / av.time_base * rate))  # Matroska does not say how many
        steps = np.arange(frames) * (views.clip.stride or rate / (views.clip.fps or rate))
        clips = []
        for kind, size in zip(views.kinds, sizes, strict=True):
            numbers = (GENERATOR.random() * max(0.0, count - steps[-1]) + steps).astype(np.int64) % count
            wanted, places = np.unique(numbers, return_inverse=True)
            container.seek(begin + round(wanted[0] / rate / stream.time_base), stream=stream)
            box, cut = random_resized_crop_box((stream.width, stream.height), kind, GENERATOR), []
            for frame in container.decode(stream):
                due = bisect_right(wanted, round((frame.pts - begin) * float(stream.time_base) * rate))
                if due > len(cut):
                    image = Image.fromarray(reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray())
                    view = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
                    cut += [view] * (due - len(cut))
                if due == len(wanted):
                    break
            clips.append(np.stack([cut[min(place, len(cut) - 1)] for place in places.tolist()]))
        return clips


def crop_all(crop: Callable[[bytes], object], media: Sequence[bytes], batch: int) -> Iterator[int]:
    endless = cycle(media)
    while True:
        for data in islice(endless, batch):
            with suppress(Exception):  # on damaged bytes decoders raise almost anything; webdataset passes over it likewise
                crop(data)
        yield batch


def crop_for_ever(crop: Callable[[bytes], object], media: Sequence[bytes], batch: int, done: "SimpleQueue[int]") -> None:
    init_forked_worker(0)
    for count in crop_all(crop, media, batch):
        done.put(count)


def collate(
    rows: Sequence[tuple[Cut]], masks: Sequence[MaskSampler], uncut: bool
) -> tuple[list[UInt8[Tensor, "B C *T _ _"]], list[Masks]]:
    stacked = [
        pad_images(images, len(images)) if uncut else stack(images) for images in zip(*(row for (row,) in rows), strict=True)
    ]
    return stacked, [sampler([GENERATOR] * len(rows), 0) for sampler in masks]


def stack(views: Sequence[UInt8[np.ndarray, "*T S S C"]]) -> UInt8[Tensor, "B C *T S S"]:
    pixels = np.empty((len(views), 3, *views[0].shape[:-1]), np.uint8)
    for place, view in zip(pixels, views, strict=True):
        place[:] = np.moveaxis(view, -1, 0)
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
        """Samples/s in one turn."""
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
    """Samples/s of work that returns how many it made."""
    began = perf_counter()
    samples = work()
    return samples / (perf_counter() - began)
