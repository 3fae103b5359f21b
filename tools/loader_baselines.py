"""Baselines of the data loader: a bare loop and a plain webdataset pipeline over the same images or videos."""

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
from jepa_pipeline.data.dataset import MaskSampler
from jepa_pipeline.data.loader import build_batch_sampler, build_mixture, train_loader
from jepa_pipeline.data.sample import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from jepa_pipeline.data.shards import SampleError, Shards
from jepa_pipeline.data.video import import_av
from jepa_pipeline.data.views import pad_images, random_resized_crop_box
from jepa_pipeline.data.workers import init_forked_worker

Views = list[UInt8[np.ndarray, "*T H W C"]]
"""All views of one image or video."""

MEDIA_BATCHES = 8
MEDIA_BYTES = 1 << 28
"""Most bytes of compressed media in memory; videos may be large."""
GENERATOR = np.random.default_rng(0)
"""One generator for all samples: the baselines need not be reproducible, and this is the fastest."""


class Loaders:
    """The loader of a run and its two baselines, each as an endless iterator over the number of samples per batch.

    The baselines crop every view of the run but do not augment colors: the difference is the cost of the augmentation. If
    views are cropped on the device, which clips never are, all three only decode, and the webdataset pipeline pads.

    Args:
        config: of one device, whose global batch is one micro-batch. The first shards of a URL are fetched.
        masks: mask samplers of the method.
        crop_on_device: the training device would crop the views of images.
    """

    def __init__(self, config: RunConfig, masks: Sequence[MaskSampler], crop_on_device: bool = False) -> None:
        self.config = config
        self.masks = masks
        self.unit = config.method.encoder.modality.unit
        self.crop_on_device = crop_on_device and self.unit == "images"
        self.batch = config.optim.batch_size_global
        source = Shards(config.data.train[0].path, cache=config.data.cache)
        self.videos = source.manifest.kind == "videos"
        self.crop = decode_image if self.crop_on_device else self.build_crop()
        sampler = build_mixture(config.data, config.seed, [source]).samplers[0]
        window = sampler.upcoming_shards(0)[: sampler.window_shards]
        for shard in window:
            source.open(shard)
        files = [source.manifest.shards[shard] for shard in window]
        self.tars = [source.cache.tar_path(file) if source.cache else Path(source.tars) / file.file for file in files]
        positions = sampler.locate(0, MEDIA_BATCHES * self.batch)
        self.media = read_media(source, positions.shard.tolist(), positions.member.tolist())

    def build_crop(self) -> Callable[[bytes], Views]:
        """Return the function that makes all views of the bytes of an image or video."""
        views, encoder = self.config.views, self.config.method.encoder
        sizes = views.sizes(encoder.image_size)
        if encoder.modality.has_time:
            return partial(crop_video if self.videos else repeat_crops, views=views, sizes=sizes, frames=encoder.frames)
        return partial(crop_image, views=views, sizes=sizes)

    def loader(self, workers: int) -> DataLoader[Batch]:
        """Return the loader of the run."""
        data = self.config.data.model_copy(update={"workers": workers})
        config, batch_sampler = self.config, build_batch_sampler(self.config.optim)
        return train_loader(
            data, config.views, config.method, self.masks, batch_sampler, seed=config.seed, crop_on_device=self.crop_on_device
        )

    def whole(self, workers: int) -> Iterator[int]:
        """Load as the run does, with views, masks, labels and keys, in `workers` processes or, if 0, in this one."""
        return (len(batch.keys) for batch in self.loader(workers))

    def bare_loop(self, workers: int) -> Iterator[int]:
        """Decode and crop media in memory, in a loop without anything else."""
        context = get_context()
        done = context.SimpleQueue()
        for _ in range(workers):
            context.Process(target=crop_forever, args=(self.crop, self.media, self.batch, done), daemon=True).start()
        return iter(done.get, 0) if workers else crop_all(self.crop, self.media, self.batch)

    def webdataset(self, workers: int) -> Iterator[int]:
        """Load the same shards with plain webdataset into batches with masks, without shuffling, labels and keys."""
        pipeline: Any = (
            WebDataset(list(map(str, self.tars)), resampled=True, shardshuffle=False, handler=ignore_and_continue)
            .to_tuple(";".join(VIDEO_EXTENSIONS if self.videos else IMAGE_EXTENSIONS), handler=ignore_and_continue)
            .map_tuple(self.crop, handler=ignore_and_continue)
            .batched(self.batch, collation_fn=partial(collate, masks=self.masks, pad=self.crop_on_device), partial=False)
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


def read_media(shards: Shards, numbers: Sequence[int], members: Sequence[int]) -> list[bytes]:
    """Return the compressed images or videos of the readable samples, up to MEDIA_BYTES."""
    media, left = [], MEDIA_BYTES
    for shard, member in zip(numbers, members, strict=True):
        with suppress(SampleError):
            media.append(shards.read(shard, member).media)
            left -= len(media[-1])
        if left < 0:
            break
    return media


def decode_image(data: bytes) -> Views:
    """Return the full image, by the one call of Pillow that any pipeline without cropping needs."""
    return [np.asarray(Image.open(BytesIO(data)).convert("RGB"))]


def crop_image(data: bytes, views: ViewsConfig, sizes: Sequence[int]) -> Views:
    """Return a random crop for each view, by the two calls of Pillow that any pipeline with cropping needs."""
    image, crops = Image.open(BytesIO(data)).convert("RGB"), []
    for kind, size in zip(views.kinds, sizes, strict=True):
        box = random_resized_crop_box(image.size, kind, GENERATOR)
        crops.append(np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box)))
    return crops


def repeat_crops(data: bytes, views: ViewsConfig, sizes: Sequence[int], frames: int) -> Views:
    """Return random crops of an image, each repeated as the frames of a clip."""
    return [np.broadcast_to(view, (frames, *view.shape)) for view in crop_image(data, views, sizes)]


def crop_video(data: bytes, views: ViewsConfig, sizes: Sequence[int], frames: int) -> Views:
    """Return a random clip for each view, in the simplest way with PyAV.

    Seek to the key frame before a random start, decode up to the clip's last frame, and convert and crop each of its frames.
    Frames are found by their time at the mean rate, so videos of varying rate give slightly other frames than in a run.
    """
    av = import_av()
    with av.open(BytesIO(data)) as container:
        stream, reformatter = container.streams.video[0], av.video.reformatter.VideoReformatter()
        stream.thread_count = 1
        rate, begin = float(stream.average_rate), stream.start_time or 0
        count = stream.frames or max(1, round(container.duration / av.time_base * rate))  # Matroska has no frame count
        steps = np.arange(frames) * (views.clip.stride or rate / (views.clip.fps or rate))
        clips = []
        for kind, size in zip(views.kinds, sizes, strict=True):
            numbers = (GENERATOR.random() * max(0.0, count - steps[-1]) + steps).astype(np.int64) % count
            wanted, inverse = np.unique(numbers, return_inverse=True)
            container.seek(begin + round(wanted[0] / rate / stream.time_base), stream=stream)
            box, crops = random_resized_crop_box((stream.width, stream.height), kind, GENERATOR), []
            for frame in container.decode(stream):
                due = bisect_right(wanted, round((frame.pts - begin) * float(stream.time_base) * rate))
                if due > len(crops):
                    image = Image.fromarray(reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray())
                    view = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
                    crops += [view] * (due - len(crops))
                if due == len(wanted):
                    break
            clips.append(np.stack([crops[min(index, len(crops) - 1)] for index in inverse.tolist()]))
        return clips


def crop_all(crop: Callable[[bytes], object], media: Sequence[bytes], batch: int) -> Iterator[int]:
    endless = cycle(media)
    while True:
        for data in islice(endless, batch):
            with suppress(Exception):  # decoders raise almost anything on damaged bytes; webdataset skips such samples too
                crop(data)
        yield batch


def crop_forever(crop: Callable[[bytes], object], media: Sequence[bytes], batch: int, done: "SimpleQueue[int]") -> None:
    init_forked_worker(0)
    for count in crop_all(crop, media, batch):
        done.put(count)


def collate(
    rows: Sequence[tuple[Views]], masks: Sequence[MaskSampler], pad: bool
) -> tuple[list[UInt8[Tensor, "B C *T _ _"]], list[Masks]]:
    stacked = [
        pad_images(images, len(images)) if pad else stack_channels_first(images)
        for images in zip(*(row for (row,) in rows), strict=True)
    ]
    return stacked, [sampler([GENERATOR] * len(rows), 0) for sampler in masks]


def stack_channels_first(views: Sequence[UInt8[np.ndarray, "*T S S C"]]) -> UInt8[Tensor, "B C *T S S"]:
    pixels = np.empty((len(views), 3, *views[0].shape[:-1]), np.uint8)
    for target, view in zip(pixels, views, strict=True):
        target[:] = np.moveaxis(view, -1, 0)
    return torch.from_numpy(pixels)


class PausedWorkers:
    """The workers of one loader, paused except during its own turns, so that no other loader runs during a measurement.

    A turn has the same number of batches per worker, and enough to take `turn_s` seconds or more.
    """

    def __init__(self, start: Callable[[int], Iterator[int]], workers: int, turn_s: float) -> None:
        before = {process.pid for process in active_children()}
        self.batches = start(workers)
        self.processes = [process for process in active_children() if process.pid not in before]
        self.turn = workers
        seconds = 0.0
        while seconds < turn_s:  # these turns also warm up
            began = perf_counter()
            self.measure_speed()
            seconds = perf_counter() - began
            self.turn = self.turn if seconds >= turn_s else 2 * self.turn

    def measure_speed(self) -> float:
        """Return the samples/s of one turn."""
        self.signal(signal.SIGCONT)
        speed = measure_rate(lambda: sum(islice(self.batches, self.turn)))
        self.signal(signal.SIGSTOP)
        return speed

    def signal(self, number: signal.Signals) -> None:
        for process in self.processes:
            if process.pid and process.is_alive():
                os.kill(process.pid, number)

    def stop(self) -> None:
        self.signal(signal.SIGCONT)
        self.batches = iter(())  # a DataLoader stops its workers when it is deleted
        for process in self.processes:
            process.kill()


def measure_rate(work: Callable[[], int]) -> float:
    """Return the samples/s of a function that returns its number of samples."""
    began = perf_counter()
    samples = work()
    return samples / (perf_counter() - began)
