"""The one LightningModule: it drives every method."""

from collections import deque
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.batch import Batch, Output, Vectors
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.gpu_crop import cut
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.data.views import normalize
from jepa_pipeline.distributed import collect, rank, whole, world_size
from jepa_pipeline.methods.method import Method
from jepa_pipeline.training.meters import Means, Recent
from jepa_pipeline.training.optim import FiniteGuard, build_optimizer, set_rates
from jepa_pipeline.training.schedules import learning_rate, weight_decay
from lightning import LightningModule


class Pretraining(LightningModule):
    """Minimize the sum of a method's losses.

    `step` counts optimizer steps from the beginning of the run. Rates and momenta depend on it alone, and the whole state of
    the data stream follows from it: step * batch_size_global samples are consumed.
    """

    def __init__(self, config: RunConfig, method: Method) -> None:
        super().__init__()
        self.config = config
        self.method = method
        self.step = 0
        self.skipped = 0
        """Samples so far of this process for which others stood in, because they could not be used."""
        self.guard = FiniteGuard()
        self.means = Means()
        self.vectors_per_step = max(1, config.health.vectors_per_step // world_size())
        vectors = max(2, config.health.vectors // world_size())
        self.recent = nn.ModuleList(Recent(vectors, *widths) for widths in method.widths)
        """What the health meters look at, a level each."""
        own = [name for name, _ in self.named_buffers() if not name.startswith("method.")]
        self._ddp_params_and_buffers_to_ignore = own  # what each process remembers for itself, DDP is not to make alike
        self.recent_keys: deque[tuple[int, list[str]]] = deque(maxlen=config.log.every_steps * config.optim.accumulate_steps)

    @property
    def samples(self) -> int:
        """Samples consumed so far."""
        return self.step * self.config.optim.batch_size_global

    def get_extra_state(self) -> dict[str, int]:
        return {"skipped": self.skipped}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.skipped = state["skipped"]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Whatever a network draws for itself, such as dropout, belongs to this part of this step too."""
        self.method.step = self.step
        self.method.step_key = int(keyed_generator(self.config.seed, Stream.SHARED, 0, self.step).integers(2**63))
        part = batch_idx % self.config.optim.accumulate_steps
        generator = keyed_generator(self.config.seed, Stream.STEP, 0, self.step, view=part, source=rank())
        torch.manual_seed(int(generator.integers(2**63)))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        views = batch.views if batch.uncut is None else cut(batch.uncut)
        views = [normalize(pixels, self.config.views.mean, self.config.views.std) for pixels in views]
        return batch._replace(views=views, uncut=None)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        output = self.method(batch)
        loss = torch.stack(list(output.losses.values())).sum()
        self.look(batch, output, loss.detach())
        return loss

    def look(self, batch: Batch, output: Output, loss: Tensor) -> None:
        """Keep what the logs will tell, on the device."""
        self.means.add({"loss": loss, **{name: term.detach() for name, term in output.losses.items()}, **output.metrics})
        for recent, level in zip(self.recent, (output, *output.above), strict=True):
            recent.add(Vectors(level.features, level.targets, level.predictions), self.vectors_per_step)  # pyright: ignore[reportCallIssue]
        self.recent_keys.append((self.step + 1, batch.keys))
        self.last_loss = loss

    def configure_model(self) -> None:
        """Nothing: the networks were spread over the devices before anything was loaded into them."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.method, self.config.optim)

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip, and look at the step before it is taken; Lightning calls this once an optimizer step, after the last backward."""
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = whole(get_total_norm([parameter.grad for parameter in trained if parameter.grad is not None]))
        if self.config.optim.clip_norm is not None:
            clip_grads_with_norm_(trained, self.config.optim.clip_norm, norm)
        self.means.add({"gradient_norm": norm})
        self.guard.watch(self.step + 1, self.last_loss, norm, getattr(optimizer, "optimizer", optimizer))

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, *args: Any) -> None:
        """Rates, step, target: each a function of the number of this optimizer step, so right under accumulation too."""
        config, step = self.config.optim, self.step + 1
        set_rates(getattr(optimizer, "optimizer", optimizer), learning_rate(step, config), weight_decay(step, config))
        super().optimizer_step(epoch, batch_idx, optimizer, *args)
        self.method.after_step(step, config.schedule_steps)
        self.step = step

    def stop_if_broken(self) -> None:
        """Wait for the device and stop the run if a step was not finite.

        Raises:
            UserError: names the step and its samples; what the optimizer trains is as it was before it.
        """
        step = int(self.guard.broken_step)
        if not step:
            return
        mine = [key for number, batch in self.recent_keys if number == step for key in batch]
        shares = collect((bool(self.guard.here), mine))
        guilty = any(broken for broken, _ in shares)  # else it was the gradient, to which all contribute
        keys = [key for broken, share in shares if broken or not guilty for key in share]
        named = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
        raise UserError(
            f"step {step} gave a loss or gradient that is not finite; it was not applied, and what was saved before is whole. "
            f"Lower optim.lr, set optim.clip_norm, or look at its samples: {named or 'no longer known'}"
        )
