"""The LightningModule that trains every method."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.batch import Batch, Output, Vectors
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.optim import OptimConfig
from jepa_pipeline.config.trainer import HEALTH_VECTORS
from jepa_pipeline.config.views import ViewsConfig
from jepa_pipeline.data.gpu_crop import crop_views
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.data.views import normalize
from jepa_pipeline.distributed import all_gather_object, full_tensor, rank, world_size
from jepa_pipeline.methods.method import Method, check_output
from jepa_pipeline.training.meters import AverageMeters, RecentVectors
from jepa_pipeline.training.optim import FiniteGuard, build_optimizer, set_rates
from jepa_pipeline.training.schedules import learning_rate, weight_decay
from lightning import LightningModule

VECTORS_PER_STEP = 64
"""Vectors of each step, over all ranks, that are added to those on which collapse is measured."""
MOST_NAMED = 8
"""Samples of a broken step that an error names."""


class Pretraining(LightningModule):
    """Minimizes the sum of a method's losses.

    Args:
        method: the method, whose networks are already on their devices and sharded.
        optim: optimizer, batch size and schedules.
        views: mean and standard deviation with which views are normalized.
        seed: seed of the run.

    Attributes:
        step: optimizer steps since the beginning of the run. Schedules, EMA and random numbers are functions of it, and
            step * batch_size_global samples of the stream have been consumed.
        skipped: unusable samples that this rank has replaced since the beginning of the run.
        recent: for each level, the newest vectors.
    """

    def __init__(self, method: Method, optim: OptimConfig, views: ViewsConfig, seed: int) -> None:
        super().__init__()
        self.method = method
        self.optim = optim
        self.views = views
        self.seed = seed
        self.step = 0
        self.skipped = 0
        self.guard = FiniteGuard()
        self.means = AverageMeters()
        self.vectors_per_step = max(1, VECTORS_PER_STEP // world_size())
        vectors = max(2, HEALTH_VECTORS // world_size())
        self.recent = nn.ModuleList(RecentVectors(vectors, *widths) for widths in method.widths)
        # A private name of torch's DDP, and its only way to leave buffers alone: at its start DDP copies rank 0's buffers
        # to all ranks, but these hold what each rank has measured on its own share.
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_buffers() if not name.startswith("method.")]
        self.unchecked_keys: list[tuple[int, list[str]]] = []
        self.callback_states: dict[str, Any] = {}
        self.is_output_checked = type(method).__module__.startswith("jepa_pipeline.")

    @property
    def samples(self) -> int:
        """Return the number of samples consumed since the beginning of the run."""
        return self.step * self.optim.batch_size_global

    def get_extra_state(self) -> dict[str, int]:
        return {"skipped": self.skipped}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.skipped = state["skipped"]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed torch by step, micro-batch and rank, so that a resumed run samples the same dropout and drop path."""
        micro_batch = batch_idx % self.optim.accumulate_steps
        generator = keyed_generator(self.seed, Stream.STEP, 0, self.step, view=micro_batch, source=rank())
        torch.manual_seed(int(generator.integers(2**63)))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        views = batch.views if batch.deferred_crops is None else crop_views(batch.deferred_crops, self.views.resampling)
        views = [normalize(pixels, self.views.mean, self.views.std) for pixels in views]
        return batch._replace(views=views, deferred_crops=None)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        seed = int(keyed_generator(self.seed, Stream.SHARED, 0, self.step).integers(2**63))
        output = self.method(batch, self.step, seed)
        if not self.is_output_checked:
            check_output(self.method, output)
            self.is_output_checked = True
        loss = torch.stack(list(output.losses.values())).sum()
        self.update_meters(batch, output, loss.detach())
        return loss

    def update_meters(self, batch: Batch, output: Output, loss: Tensor) -> None:
        """Record on the device what the next log line reports."""
        self.means.update({"loss": loss, **{name: term.detach() for name, term in output.losses.items()}, **output.metrics})
        for recent, level in zip(self.recent, (output, *output.above), strict=True):
            recent.add(Vectors(level.features, level.targets, level.predictions), self.vectors_per_step)  # pyright: ignore[reportCallIssue]
        self.unchecked_keys.append((self.step + 1, batch.keys))
        self.last_loss = loss

    def configure_model(self) -> None:
        """Do nothing, but exist: ModelParallelStrategy requires it. Networks are sharded before weights are loaded into them."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.method, self.optim)

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip the gradient and check that it is finite. Lightning calls this once per step, after the last micro-batch."""
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        # clipped by hand, since Lightning's own clipping refuses sharded gradients and the norm is logged too
        norm = full_tensor(get_total_norm([parameter.grad for parameter in trained if parameter.grad is not None]))
        limit = self.optim.clip_norm_at(self.step + 1)
        if limit is not None:
            clip_grads_with_norm_(trained, limit, norm)
        self.means.update({"gradient_norm": norm})
        self.guard.check(self.step + 1, self.last_loss, norm, unwrap(optimizer))

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, *args: Any) -> None:
        """Set the rates, take the step, then update the EMA target. Lightning calls this once per step, not per micro-batch."""
        step = self.step + 1
        set_rates(unwrap(optimizer), learning_rate(step, self.optim), weight_decay(step, self.optim))
        super().optimizer_step(epoch, batch_idx, optimizer, *args)
        self.method.after_optimizer_step(step, self.optim.schedule_steps)
        self.step = step

    def check_finite(self) -> None:
        """Wait for the device, and end the run if a step since the last call was not finite. All ranks must call this.

        Raises:
            UserError: names the step and its samples. The trained weights are those from before that step.
        """
        step = int(self.guard.broken_step)
        keys = [key for number, batch in self.unchecked_keys if number == step for key in batch]
        self.unchecked_keys = []
        if not step:
            return
        ranks = all_gather_object((bool(self.guard.broken_here), keys))
        loss_is_broken = any(broken for broken, _ in ranks)  # else only the gradient is, to which all ranks contribute
        named = [key for broken, keys in ranks if broken or not loss_is_broken for key in keys]
        text = ", ".join(named[:MOST_NAMED]) + (f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else "")
        raise UserError(
            f"step {step} gave a loss or gradient that is not finite; it was not applied, and earlier checkpoints are intact. "
            f"Lower optim.lr, set optim.clip_norm, or check its samples: {text or 'unknown'}"
        )


def unwrap(optimizer: Any) -> torch.optim.Optimizer:
    """Return torch's optimizer from Lightning's LightningOptimizer around it."""
    return getattr(optimizer, "optimizer", optimizer)
