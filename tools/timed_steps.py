"""Optimizer steps as a run takes them, timed: for the tools that measure."""

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
from jepa_pipeline.methods.method import Method
from jepa_pipeline.training.module import Pretraining
from jepa_pipeline.training.processes import RankInfo
from jepa_pipeline.training.trainer import build_trainer

ALONE = RankInfo(0, 1, 0, 1, "127.0.0.1", 0, launcher=None)


class Timeline:
    """Readings of a clock along optimizer steps: of its parts in every second step, and of its end alone in the others."""

    def __init__(self, now: Callable[[], Any], between: Callable[[Any, Any], float]) -> None:
        self.now = now
        self.between = between
        self.steps: list[list[tuple[str, Any]]] = [[]]

    def mark(self, part: str) -> None:
        """What went by since the mark before was `part`."""
        if len(self.steps) % 2:
            self.steps[-1].append((part, self.now()))

    def end_step(self, part: str) -> None:
        end = (part, self.now())
        self.steps[-1].append(end)
        self.steps.append([end])

    def wholes(self, skip: int) -> list[float]:
        """The steps after the first `skip` that were marked at their ends alone."""
        return [self.between(step[0][1], step[-1][1]) for step in self.steps[skip:-1] if len(step) == 2]

    def parts(self, skip: int) -> list[dict[str, float]]:
        """The parts of the other steps."""
        return [self.split(step) for step in self.steps[skip:-1] if len(step) > 2]

    def split(self, step: list[tuple[str, Any]]) -> dict[str, float]:
        sums: dict[str, float] = {}
        for (_, start), (part, end) in pairwise(step):
            sums[part] = sums.get(part, 0.0) + self.between(start, end)
        return sums


def milliseconds(accelerator: str) -> Timeline:
    """Host time on a CPU; on a GPU events in its own queue, for which nobody waits before the run is over."""
    if accelerator == "cpu":
        return Timeline(time.perf_counter, lambda start, end: 1e3 * (end - start))

    def record() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    return Timeline(record, lambda start, end: start.elapsed_time(end))


class Timed(Pretraining):
    """Pretraining that marks the end of every optimizer step."""

    timeline: Timeline

    def __init__(self, config: RunConfig, method: Method) -> None:
        super().__init__(method, config.optim, config.views, config.seed)
        self.config = config

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, *args: Any) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, *args)
        self.timeline.end_step("EMA")


class OneBatch(Dataset[Batch]):
    """Random pixels and real masks, the same batch for every number."""

    def __init__(self, config: RunConfig, masks: Sequence[MaskSampler]) -> None:
        sizes = config.views.sizes(config.method.encoder.image_size)
        images = config.optim.batch_size_global // config.optim.accumulate_steps
        encoder = config.method.encoder
        time = [encoder.frames] if encoder.modality.has_time else []
        views = [torch.randint(256, (images, 3, *time, size, size), dtype=torch.uint8) for size in sizes]
        self.batch = Batch(views, draw_masks(config, masks, images), None, [str(number) for number in range(images)], [])

    def __getitems__(self, numbers: list[int]) -> Batch:
        return self.batch


def draw_masks(config: RunConfig, masks: Sequence[MaskSampler], images: int) -> list[Masks]:
    """Those of all views of a batch; none for a method without masks."""
    views = range(len(config.views.kinds))
    generators = [keyed_generator(config.seed, Stream.MASK, 0, number, view) for view in views for number in range(images)]
    return [sampler(generators, 0) for sampler in masks]


def lengthen(config: RunConfig, steps: int) -> RunConfig:
    """The run with at least that many steps, so that the stream does not end while it is measured."""
    total = max(config.optim.total_samples, steps * config.optim.batch_size_global)
    return config.model_copy(update={"optim": config.optim.model_copy(update={"total_samples": total})})


def run(module: Timed, batches: DataLoader[Batch], timeline: Timeline, steps: int, accelerator: str) -> Timeline:
    """Train for that many optimizer steps, as `jepa pretrain` does but without its log and its checkpoints."""
    config, module.timeline = module.config, timeline
    trainer = build_trainer(config.trainer, accelerator, ALONE, steps, config.optim.accumulate_steps, callbacks=[])
    trainer.fit(module, batches)
    if accelerator == "cuda":
        torch.cuda.synchronize()
    return timeline
