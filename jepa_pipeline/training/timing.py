"""Timed steps: the time that a run would take on this machine, from a few micro-batches of it."""

import time
from typing import Any, NamedTuple

import torch

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.loader import build_batch_sampler, train_loader
from jepa_pipeline.data.worker_pool import available_cores
from jepa_pipeline.masks.build import build_mask_samplers
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.training.module import Pretraining
from jepa_pipeline.training.parallel import parallelize
from jepa_pipeline.training.processes import RankInfo
from jepa_pipeline.training.trainer import build_trainer
from lightning import Callback

FEW_SAMPLES, GROWTH = 4, 4
"""Samples of the first timed micro-batch, and how many times as many the next one has."""
LONG_ENOUGH_S = 2.0
"""Seconds of a timed micro-batch that are long enough to tell what a larger one takes."""
ALONE = RankInfo(0, 1, 0, 1, "127.0.0.1", 0, launcher=None)


class StepTime(NamedTuple):
    """Seconds per sample to compute and to load, timed on a micro-batch of `samples`, and those of a whole step."""

    samples: int
    compute_s: float
    load_s: float
    step_s: float


class Stopwatch(Callback):
    """Times the loading and the computation of each micro-batch."""

    def __init__(self) -> None:
        self.load_s, self.compute_s = 0.0, 0.0

    def on_train_start(self, *_: Any) -> None:
        self.mark = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        now = time.perf_counter()
        self.load_s, self.mark = now - self.mark, now

    def on_train_batch_end(self, *_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.compute_s, self.mark = now - self.mark, now


def time_step(config: RunConfig, accelerator: str) -> StepTime:
    """Return what a step of a run takes on this machine. Nothing is written.

    Micro-batches of a growing number of samples are trained on, in this process and without trainer.compile, until one takes long
    enough, or is a whole one.

    Raises:
        UserError: the data cannot be read.
    """
    trainer = config.trainer.model_copy(update={"compile": False, "strategy": "auto", "devices": None, "nodes": None})
    optim = config.optim.model_copy(update={"accumulate_steps": 1})
    method = parallelize(build_method(config.method), trainer, accelerator, 1)
    module = Pretraining(method, optim, config.views, config.seed)
    whole = config.optim.batch_size_global // (config.optim.accumulate_steps * config.trainer.processes)
    samples = min(FEW_SAMPLES, whole)
    while not can_train(config, samples) and samples < whole:
        samples += 1
    while True:
        sampler = build_batch_sampler(optim.model_copy(update={"batch_size_global": samples, "total_samples": 2 * samples}))
        loader = train_loader(
            config.data.model_copy(update={"workers": 0}),
            config.views,
            config.method,
            build_mask_samplers(config.method),
            sampler,
            seed=config.seed,
            crop_on_device=config.views.on_trainer(accelerator) and config.method.encoder.modality.cropped_on_device,
        )
        watch = Stopwatch()
        build_trainer(trainer, accelerator, ALONE, 2, 1, [watch], lambda _: None).fit(module, loader)  # the first warms up
        if samples >= whole or watch.compute_s + watch.load_s >= LONG_ENOUGH_S:
            break
        samples = min(GROWTH * samples, whole)
    compute_s, load_s = watch.compute_s / samples, watch.load_s / samples
    return StepTime(samples, compute_s, load_s, combine(config, accelerator, compute_s, load_s))


def can_train(config: RunConfig, samples: int) -> bool:
    """Return whether the method accepts micro-batches of so few samples."""
    try:
        config.method.check_micro_batch(samples, 1)
    except (ValueError, UserError):
        return False
    return True


def combine(config: RunConfig, accelerator: str, compute_s: float, load_s: float) -> float:
    """Return the seconds of a step, in which data workers load while the device computes; on CPUs they share the cores.

    The processes of one machine share its cores too, and nothing is known of the connection between machines, which is left out.
    """
    machines = config.trainer.nodes or 1
    workers, cores = config.data.workers * (config.trainer.devices or 1), available_cores()
    if accelerator == "cuda":
        compute_s /= config.trainer.devices or 1
    elif workers:
        compute_s += load_s / cores
    if not workers:
        return config.optim.batch_size_global * (compute_s + load_s / (config.trainer.devices or 1)) / machines
    return config.optim.batch_size_global * max(compute_s, load_s / min(workers, cores)) / machines
