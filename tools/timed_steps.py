"""Timed optimizer steps, taken as a run takes them; shared by the benchmarks of training."""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from jepa_pipeline.batch import Batch, Masks
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.dataset import MaskSampler
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.data.workers import build_loader
from jepa_pipeline.masks.build import build_mask_samplers
from jepa_pipeline.methods.method import Method
from jepa_pipeline.training.module import Pretraining
from jepa_pipeline.training.processes import RankInfo
from jepa_pipeline.training.trainer import build_trainer

SINGLE_PROCESS = RankInfo(0, 1, 0, 1, "127.0.0.1", 0, launcher=None)


class Timeline:
    """Clock readings during optimizer steps: at the end of every step, and between the parts of every second step.

    The other steps show what a step takes without the cost of the readings between.
    """

    def __init__(self, now: Callable[[], Any], between: Callable[[Any, Any], float]) -> None:
        self.now = now
        self.between = between
        self.steps: list[list[tuple[str, Any]]] = [[]]

    def mark(self, part: str) -> None:
        """Attribute the time since the mark before to `part`."""
        if len(self.steps) % 2:
            self.steps[-1].append((part, self.now()))

    def end_step(self, part: str) -> None:
        end = (part, self.now())
        self.steps[-1].append(end)
        self.steps.append([end])

    def step_times(self, skip: int) -> list[float]:
        """Return the times of the unmarked steps after the first `skip` steps."""
        return [self.between(step[0][1], step[-1][1]) for step in self.steps[skip:-1] if len(step) == 2]

    def part_times(self, skip: int) -> list[dict[str, float]]:
        """Return the times of the parts of the marked steps after the first `skip` steps."""
        return [self.sum_parts(step) for step in self.steps[skip:-1] if len(step) > 2]

    def sum_parts(self, step: list[tuple[str, Any]]) -> dict[str, float]:
        sums: dict[str, float] = {}
        for (_, start), (part, end) in pairwise(step):
            sums[part] = sums.get(part, 0.0) + self.between(start, end)
        return sums


def millisecond_timeline(device: str) -> Timeline:
    """Return a timeline of host time on CPUs; on GPUs, of events in the stream, so that no reading waits for the GPU."""
    if device == "cpu":
        return Timeline(time.perf_counter, lambda start, end: 1e3 * (end - start))

    def record() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    return Timeline(record, lambda start, end: start.elapsed_time(end))


class TimedPretraining(Pretraining):
    """Pretraining that marks the end of every optimizer step.

    Args:
        config: of the run.
        method: already parallelized.
        warm_up: optimizer steps after which the peak of GPU memory is reset.
    """

    timeline: Timeline

    def __init__(self, config: RunConfig, method: Method, warm_up: int = 1) -> None:
        super().__init__(method, config.optim, config.views, config.seed)
        self.config, self.warm_up = config, warm_up

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, *args: Any) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, *args)
        self.timeline.end_step("EMA")
        if self.step == self.warm_up and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()


class RepeatedBatch(Dataset[Batch]):
    """One micro-batch of random pixels with real masks, at every index."""

    def __init__(self, config: RunConfig) -> None:
        samples = config.optim.batch_size_global // config.optim.accumulate_steps
        dtype = getattr(torch, config.data.pixel_format.dtype)
        views = [torch.randint(256, (samples, *shape), dtype=dtype) for shape in view_shapes(config)]
        masks = sample_masks(config, build_mask_samplers(config.method), samples)
        self.batch = Batch(views, masks, None, [str(number) for number in range(samples)], [])

    def __getitems__(self, numbers: list[int]) -> Batch:
        return self.batch


def view_shapes(config: RunConfig) -> list[tuple[int, ...]]:
    """Return the shape of each view of a sample: channels, frames of clips, height and width."""
    encoder = config.method.encoder
    time = (encoder.frames,) if encoder.modality.has_time else ()
    return [(encoder.in_channels, *time, size, size) for size in config.views.sizes(encoder.image_size)]


def sample_masks(config: RunConfig, samplers: Sequence[MaskSampler], samples: int) -> list[Masks]:
    """Return the masks of all views of a batch for each sampler."""
    views = range(len(config.views.kinds))
    generators = [keyed_generator(config.seed, Stream.MASK, 0, number, view) for view in views for number in range(samples)]
    return [sampler(generators, 0) for sampler in samplers]


def repeated_batches(config: RunConfig, steps: int, pin_memory: bool = False) -> DataLoader[Batch]:
    """Return a loader of one batch for `steps` optimizer steps."""
    return build_loader(RepeatedBatch(config), [[0]] * steps * config.optim.accumulate_steps, workers=0, pin_memory=pin_memory)


def extend_run(config: RunConfig, steps: int) -> RunConfig:
    """Return the run with at least `steps` steps, so that the loader does not end while it is measured."""
    total = max(config.optim.total_samples, steps * config.optim.batch_size_global)
    return config.model_copy(update={"optim": config.optim.model_copy(update={"total_samples": total})})


def train_steps(
    module: TimedPretraining,
    batches: DataLoader[Batch],
    timeline: Timeline,
    steps: int,
    device: str,
    info: RankInfo = SINGLE_PROCESS,
) -> Timeline:
    """Train for `steps` optimizer steps, as `jepa pretrain` does but without logs and checkpoints; return the timeline."""
    config, module.timeline = module.config, timeline
    trainer = build_trainer(config.trainer, device, info, steps, config.optim.accumulate_steps, callbacks=[], log=print)
    trainer.fit(module, batches)
    if device == "cuda":
        torch.cuda.synchronize()
    return timeline
