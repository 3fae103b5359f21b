"""Callbacks that write metrics.jsonl and show progress. Their order matters: see callback_order.order_callbacks."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.data.mixture import Mixture
from jepa_pipeline.distributed import all_gather_object, gather, rank
from jepa_pipeline.losses.prediction import mean_distance
from jepa_pipeline.probes.collapse_metrics import collapse_metrics, constant_loss, predictor_r2
from jepa_pipeline.training.loggers import MetricsWriter
from jepa_pipeline.training.module import Pretraining
from jepa_pipeline.training.progress import TrainingProgress
from jepa_pipeline.training.schedules import learning_rate, weight_decay
from lightning import Callback, Trainer


class StepCallback(Callback):
    """A callback whose `on_step` runs after each optimizer step; Lightning calls on_train_batch_end after each micro-batch."""

    def on_train_start(self, trainer: Trainer, pl_module: Pretraining) -> None:
        self.last_step = pl_module.step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Pretraining, *_: Any) -> None:
        if pl_module.step != self.last_step:
            self.last_step = pl_module.step
            self.on_step(trainer, pl_module)

    def on_step(self, trainer: Trainer, module: Pretraining) -> None:
        raise NotImplementedError


def is_due(module: Pretraining, every_steps: int) -> bool:
    """Return whether the module is at a multiple of every_steps or at the last step."""
    return module.step % every_steps == 0 or module.step == module.optim.total_steps


class DataWaitTimer(Callback):
    """Measures the seconds spent waiting for data, from the end of all callbacks of a batch to the start of the next.

    Attributes:
        waited_s: so far.
    """

    def __init__(self) -> None:
        self.waited_s = self.popped_s = 0.0

    def on_train_start(self, *_: Any) -> None:
        self.ended = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        self.waited_s += time.perf_counter() - self.ended

    def on_train_batch_end(self, *_: Any) -> None:
        self.ended = time.perf_counter()

    def pop(self) -> float:
        """Return the seconds waited since the last call."""
        before, self.popped_s = self.popped_s, self.waited_s
        return self.waited_s - before


class MetricsLogger(StepCallback):
    """Logs losses, rates, throughput and the share of time spent waiting for data.

    Losses are averages over all ranks; times are rank 0's.

    Args:
        writer: metrics.jsonl of the run.
        mixture: the stream of samples.
        sources: names of its data sets.
        timer: measures the waiting.
        progress: shows the rows and the steps.
        every_steps: steps between two rows.
    """

    def __init__(
        self,
        writer: MetricsWriter,
        mixture: Mixture,
        sources: Sequence[str],
        timer: DataWaitTimer,
        progress: TrainingProgress,
        every_steps: int,
    ) -> None:
        self.writer = writer
        self.mixture = mixture
        self.sources = sources
        self.timer = timer
        self.progress = progress
        self.every_steps = every_steps

    def on_train_start(self, trainer: Trainer, pl_module: Pretraining) -> None:
        super().on_train_start(trainer, pl_module)
        self.started_s = self.logged_s = time.perf_counter()
        self.logged_step = pl_module.step
        self.progress.start(pl_module.step, pl_module.optim.total_steps)

    def on_step(self, trainer: Trainer, module: Pretraining) -> None:
        if self.progress.is_measured_now() and torch.cuda.is_available():
            torch.cuda.synchronize()  # else the host is ahead of the device, and the first estimate too short
        self.progress.advance(self.timer.waited_s)
        if is_due(module, self.every_steps):
            module.check_finite()
            row = self.measure(module)
            self.writer.write(row)
            self.progress.update(row, self.writer.newest)

    def measure(self, module: Pretraining) -> dict[str, float | int]:
        """Return a row of metrics of the steps since the last call. All ranks must call this."""
        means = module.means.compute_and_reset()  # first: it waits for the device, so that the clock counts finished work
        now = time.perf_counter()
        elapsed = now - self.logged_s
        samples = (module.step - self.logged_step) * module.optim.batch_size_global
        self.logged_s, self.logged_step = now, module.step
        return {
            "step": module.step,
            "samples": module.samples,
            "skipped_samples": sum(all_gather_object(module.skipped)),
            **count_epochs(self.mixture, self.sources, module.samples),
            **means,
            "lr": learning_rate(module.step, module.optim),
            "weight_decay": weight_decay(module.step, module.optim),
            "samples_per_s": samples / elapsed,
            "data_wait_share": self.timer.pop() / elapsed,
            "seconds": self.writer.seconds_before + now - self.started_s,
        }

    def on_train_end(self, *_: Any) -> None:
        self.progress.stop()

    def on_exception(self, *_: Any) -> None:
        self.progress.stop()


def count_epochs(mixture: Mixture, sources: Sequence[str], samples: int) -> dict[str, float]:
    """Return the epochs of each data set after a number of samples; of several data sets also their shares of the samples."""
    counts = mixture.count_by_source(samples)
    epochs = [count / sampler.samples_per_epoch for count, sampler in zip(counts, mixture.samplers, strict=True)]
    if len(counts) == 1:
        return {"epoch": epochs[0]}
    shares = [count / samples for count in counts]
    columns = {f"epoch/{name}": epoch for name, epoch in zip(sources, epochs, strict=True)}
    return columns | {f"share/{name}": share for name, share in zip(sources, shares, strict=True)}


class HealthMonitor(StepCallback):
    """Logs whether the representations of each level collapse, measured on the newest targets and predictions of all ranks."""

    def __init__(self, writer: MetricsWriter, every_steps: int) -> None:
        self.writer = writer
        self.every_steps = every_steps

    def on_step(self, trainer: Trainer, module: Pretraining) -> None:
        if not is_due(module, self.every_steps):
            return
        module.check_finite()
        row: dict[str, float | int] = {"step": module.step, "samples": module.samples}
        for level, recent in enumerate(module.recent, start=1):
            mine = recent.contents()  # pyright: ignore[reportCallIssue]
            # gather needs equal lengths, but ranks may hold different numbers of vectors if samples were skipped
            counts = [min(lengths) for lengths in zip(*all_gather_object([len(vectors) for vectors in mine]), strict=True)]
            gathered = [gather(vectors[:count]) for vectors, count in zip(mine, counts, strict=True)]
            if rank() == 0:
                prefix = f"level{level}/" if level > 1 else ""
                measured = measure_health(*gathered)
                if not module.method.predicts_targets:
                    del measured["health/predictor_r2"]  # one view is not a prediction of the other
                row |= {f"{prefix}{name}": value for name, value in measured.items()}
        self.writer.write(row)


def measure_health(
    features: Float[Tensor, "_ _"], targets: Float[Tensor, "S D"], predictions: Float[Tensor, "S D"]
) -> dict[str, float]:
    """Return spread and rank of all three, and the R2 of the predictions: 1 - error / error of the best constant."""
    loss = mean_distance("smooth_l1", predictions, targets)
    values = {"predictor_r2": predictor_r2(loss, constant_loss(targets))}
    for name, vectors in (("feature", features), ("target", targets), ("prediction", predictions)):
        values |= {f"{name}_{measure}": value for measure, value in collapse_metrics(vectors).items()}
    return {f"health/{name}": float(value) for name, value in values.items()}
