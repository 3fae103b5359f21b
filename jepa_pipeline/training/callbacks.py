"""Callbacks that write metrics.jsonl and show progress. Their order matters: see callback_order.order_callbacks."""

import time
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.console import print_plain
from jepa_pipeline.data.mixture import Mixture
from jepa_pipeline.distributed import all_gather_object, gather, rank
from jepa_pipeline.losses.prediction import mean_distance
from jepa_pipeline.probes.collapse_metrics import collapse_metrics, constant_loss, predictor_r2
from jepa_pipeline.training.loggers import MetricsWriter
from jepa_pipeline.training.module import Pretraining
from jepa_pipeline.training.schedules import learning_rate, weight_decay
from lightning import Callback, Trainer

PRINT_INTERVAL_S = 30.0


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
    """Measures the seconds spent waiting for data, from the end of all callbacks of a batch to the start of the next."""

    def __init__(self) -> None:
        self.waited_s = 0.0

    def on_train_start(self, *_: Any) -> None:
        self.ended = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        self.waited_s += time.perf_counter() - self.ended

    def on_train_batch_end(self, *_: Any) -> None:
        self.ended = time.perf_counter()

    def pop(self) -> float:
        """Return the seconds waited since the last call."""
        waited, self.waited_s = self.waited_s, 0.0
        return waited


class MetricsLogger(StepCallback):
    """Logs losses, rates, throughput and the share of time spent waiting for data.

    Losses are averages over all ranks; times are rank 0's.

    Args:
        writer: metrics.jsonl of the run.
        mixture: the stream of samples.
        sources: names of its data sets.
        timer: measures the waiting.
        console: shows the progress.
        every_steps: steps between two rows.
    """

    def __init__(
        self,
        writer: MetricsWriter,
        mixture: Mixture,
        sources: Sequence[str],
        timer: DataWaitTimer,
        console: Console,
        every_steps: int,
    ) -> None:
        self.writer = writer
        self.mixture = mixture
        self.sources = sources
        self.timer = timer
        self.progress = TrainingProgress(console)
        self.every_steps = every_steps

    def on_train_start(self, trainer: Trainer, pl_module: Pretraining) -> None:
        super().on_train_start(trainer, pl_module)
        self.started_s = self.logged_s = time.perf_counter()
        self.logged_step = pl_module.step
        self.progress.start(pl_module.step, pl_module.optim.total_steps)

    def on_step(self, trainer: Trainer, module: Pretraining) -> None:
        self.progress.advance()
        if is_due(module, self.every_steps):
            module.check_finite()
            row = self.measure(module)
            self.writer.write(row)
            self.progress.update(row)

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


class TrainingProgress:
    """A progress bar on a terminal; elsewhere, as in a log file, a line every half minute."""

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = (TextColumn("pretraining"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"))
        self.bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal)
        self.printed_s = -PRINT_INTERVAL_S

    def start(self, step: int, total_steps: int) -> None:
        self.task = self.bar.add_task("", total=total_steps, completed=step, status="")
        self.step, self.total_steps = step, total_steps
        self.bar.start()

    def advance(self) -> None:
        self.step += 1
        self.bar.advance(self.task)

    def update(self, row: dict[str, float | int]) -> None:
        """Show a row of metrics."""
        status = f"loss {row['loss']:.4f}  {row['samples_per_s']:.0f} samples/s  {row['data_wait_share']:.0%} waiting for data"
        self.bar.update(self.task, status=status)
        now = time.perf_counter()
        if not self.console.is_terminal and (now - self.printed_s > PRINT_INTERVAL_S or self.step == self.total_steps):
            left_s = (self.total_steps - self.step) * row["samples"] / row["step"] / row["samples_per_s"]
            print_plain(self.console, f"step {self.step}/{self.total_steps}  {status}  {left_s / 60:.1f} min left")
            self.printed_s = now

    def stop(self) -> None:
        self.bar.stop()


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
