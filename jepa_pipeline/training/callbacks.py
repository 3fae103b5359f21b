"""What happens beside the step: the log, the health meters, the progress bar, the checkpoints."""

import time
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.data.mixture import Mixture
from jepa_pipeline.data.remote import without_secrets
from jepa_pipeline.distributed import collect, gather, rank
from jepa_pipeline.losses.prediction import smooth_l1
from jepa_pipeline.probes.collapse_metrics import constant_loss, health, predictor_r2
from jepa_pipeline.training.loggers import RunLog
from jepa_pipeline.training.module import Pretraining
from jepa_pipeline.training.schedules import learning_rate, weight_decay
from lightning import Callback, Trainer

QUIET_S = 30.0


class StepCallback(Callback):
    """A callback that hears of optimizer steps, whatever the accumulation."""

    def on_train_start(self, trainer: Trainer, pl_module: Pretraining) -> None:
        self.seen = pl_module.step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Pretraining, *_: Any) -> None:
        if pl_module.step != self.seen:
            self.seen = pl_module.step
            self.on_step(trainer, pl_module)

    def on_step(self, trainer: Trainer, module: Pretraining) -> None:
        raise NotImplementedError


def due(module: Pretraining, every: int) -> bool:
    return module.step % every == 0 or module.step == module.config.optim.total_steps


class DataClock(Callback):
    """The seconds spent waiting for data, between the end of all callbacks of one batch and the start of the next."""

    def __init__(self) -> None:
        self.waited_s = 0.0

    def on_train_start(self, *_: Any) -> None:
        self.ended = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        self.waited_s += time.perf_counter() - self.ended

    def on_train_batch_end(self, *_: Any) -> None:
        self.ended = time.perf_counter()

    def pop(self) -> float:
        """The seconds since the last call."""
        waited, self.waited_s = self.waited_s, 0.0
        return waited


class Meter(StepCallback):
    """Losses, rates, speed and the share of time spent waiting for data; one line of the log every `log.every_steps`.

    Of several processes: means over all, and the first one's clock.
    """

    def __init__(self, run_log: RunLog, mixture: Mixture, clock: DataClock, console: Console) -> None:
        self.run_log = run_log
        self.mixture = mixture
        self.clock = clock
        self.progress = TrainingProgress(console)

    def on_train_start(self, trainer: Trainer, pl_module: Pretraining) -> None:
        super().on_train_start(trainer, pl_module)
        self.begun = self.reported = time.perf_counter()
        self.reported_step = pl_module.step
        self.progress.start(pl_module.step, pl_module.config.optim.total_steps)

    def on_step(self, trainer: Trainer, module: Pretraining) -> None:
        self.progress.advance()
        if due(module, module.config.log.every_steps):
            module.stop_if_broken()
            row = self.report(module)
            self.run_log.write(row)
            self.progress.tell(row)

    def report(self, module: Pretraining) -> dict[str, float | int]:
        means = module.means.pop()  # waits for the device, so that the clock below counts finished work
        now, config = time.perf_counter(), module.config.optim
        elapsed = now - self.reported
        samples = (module.step - self.reported_step) * config.batch_size_global
        self.reported, self.reported_step = now, module.step
        return {
            "step": module.step,
            "samples": module.samples,
            "skipped_samples": sum(collect(module.skipped)),
            **data_shares(module, self.mixture),
            **means,
            "lr": learning_rate(module.step, config),
            "weight_decay": weight_decay(module.step, config),
            "samples_per_s": samples / elapsed,
            "data_wait_share": self.clock.pop() / elapsed,
            "seconds": self.run_log.seconds_before + now - self.begun,
        }

    def on_train_end(self, *_: Any) -> None:
        self.progress.stop()

    def on_exception(self, *_: Any) -> None:
        self.progress.stop()


def data_shares(module: Pretraining, mixture: Mixture) -> dict[str, float]:
    """Epochs of each data set so far; of several also the share of all samples that came from each."""
    counts = mixture.counts(module.samples)
    epochs = [count / order.total for count, order in zip(counts, mixture.orders, strict=True)]
    if len(counts) == 1:
        return {"epoch": epochs[0]}
    shares = [count / module.samples for count in counts]
    names = [without_secrets(source.path) for source in module.config.data.train]
    pairs = {f"epoch/{name}": epoch for name, epoch in zip(names, epochs, strict=True)}
    return pairs | {f"share/{name}": share for name, share in zip(names, shares, strict=True)}


class TrainingProgress:
    """A bar on a terminal; elsewhere a plain line every half minute, as a log file wants it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = (TextColumn("pretraining"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[news]}"))
        self.bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal)
        self.said = -QUIET_S

    def start(self, step: int, steps: int) -> None:
        self.task = self.bar.add_task("", total=steps, completed=step, news="")
        self.step, self.steps = step, steps
        self.bar.start()

    def advance(self) -> None:
        self.step += 1
        self.bar.advance(self.task)

    def tell(self, row: dict[str, float | int]) -> None:
        news = f"loss {row['loss']:.4f}  {row['samples_per_s']:.0f} samples/s  {row['data_wait_share']:.0%} waiting for data"
        self.bar.update(self.task, news=news)
        now = time.perf_counter()
        if not self.console.is_terminal and (now - self.said > QUIET_S or self.step == self.steps):
            left = (self.steps - self.step) * row["samples"] / row["step"] / row["samples_per_s"]
            self.console.print(f"step {self.step}/{self.steps}  {news}  {left / 60:.1f} min left", soft_wrap=True, highlight=False)
            self.said = now

    def stop(self) -> None:
        self.bar.stop()


class HealthMeter(StepCallback):
    """Whether the representation is collapsing, measured on recent targets and predictions."""

    def __init__(self, run_log: RunLog) -> None:
        self.run_log = run_log

    def on_step(self, trainer: Trainer, module: Pretraining) -> None:
        if due(module, module.config.health.every_steps):
            module.stop_if_broken()
            row: dict[str, float] = {}
            for number, recent in enumerate(module.recent, start=1):
                vectors = recent.filled()  # pyright: ignore[reportCallIssue]
                counts = [min(lengths) for lengths in zip(*collect([len(kept) for kept in vectors]), strict=True)]
                kept = [gather(mine[:count]) for mine, count in zip(vectors, counts, strict=True)]
                if rank() == 0:
                    prefix = f"level{number}/" if number > 1 else ""
                    row |= {f"{prefix}{name}": value for name, value in measure_health(*kept).items()}
            if rank() == 0:
                self.run_log.write({"step": module.step, "samples": module.samples, **row})


def measure_health(
    features: Float[Tensor, "_ _"], targets: Float[Tensor, "S D"], predictions: Float[Tensor, "S D"]
) -> dict[str, float]:
    """Spread and rank of all three, and the prediction error as a share of what the best constant would make."""
    loss = torch.stack(list(smooth_l1(predictions, targets).values())).sum()
    values = {"predictor_r2": predictor_r2(loss, constant_loss(targets))}
    for name, vectors in (("feature", features), ("target", targets), ("prediction", predictions)):
        values |= {f"{name}_{measure}": value for measure, value in health(vectors).items()}
    return {f"health/{name}": float(value) for name, value in values.items()}
