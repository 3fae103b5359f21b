"""Between two steps: checkpoints are begun there, and a run that was asked to stop leaves there."""

import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.config.errors import Interrupted
from jepa_pipeline.distributed import Flags, collect, is_dealt, rank, world_size
from jepa_pipeline.files import fsync
from jepa_pipeline.models.weights import EncoderCard, gather_weights, save_weights
from jepa_pipeline.training.async_save import Saver
from jepa_pipeline.training.callbacks import StepCallback, due
from jepa_pipeline.training.checkpoint import About, Loaded, State
from jepa_pipeline.training.module import Pretraining
from jepa_pipeline.training.optim import build_optimizer
from jepa_pipeline.training.signals import StopSignals
from jepa_pipeline.training.watchdog import Watch
from lightning import Callback, Trainer

NETWORKS = "method."
"""What the names of the method's weights begin with in the module's state."""


class Snapshot(NamedTuple):
    """Everything that decides how a run goes on, and what each process remembers for its own share of the log."""

    state: State
    own: State


def snapshot(optimizer: torch.optim.Optimizer, module: Pretraining) -> Snapshot:
    """The state of a run between two steps. All processes must call it."""
    everything = module.state_dict()
    networks = {name: value for name, value in everything.items() if name.startswith(NETWORKS)}
    own = {name: value for name, value in everything.items() if not name.startswith(NETWORKS)}
    skipped = sum(collect(module.skipped))
    return Snapshot({"step": module.step, "skipped": skipped, "module": networks, "optimizer": optimizer.state_dict()}, own)


def places(module: Pretraining) -> Callable[[str], Tensor | None]:
    """Of each tensor of a run's state, by its name there, the one that is dealt out and into whose like it is to be read."""
    weights = module.state_dict()
    groups = build_optimizer(module.method, module.config.optim).param_groups
    parameters = [parameter for group in groups for parameter in group["params"]]

    def like(name: str) -> Tensor | None:
        kind, _, rest = name.partition(".")
        if kind == "module":
            place = weights.get(rest)
        elif name.startswith("optimizer.state."):
            number, _, what = rest.removeprefix("state.").partition(".")
            known = what != "step" and number.isdecimal() and int(number) < len(parameters)  # another run may have more
            place = parameters[int(number)] if known else None
        else:
            return None
        return place if isinstance(place, Tensor) and is_dealt(place) else None

    return like


def restore(module: Pretraining, loaded: Loaded) -> State:
    """Put a checkpoint into the module; the optimizer's state is returned for when there is one."""
    own = loaded.own
    if own is None:  # it was written by another number of processes: what they remembered for the log is left out
        own = {name: value for name, value in module.state_dict().items() if not name.startswith(NETWORKS)}
    module.load_state_dict({**loaded.state["module"], **own}, strict=True)
    if loaded.own is None:
        module.skipped = loaded.state["skipped"] if rank() == 0 else 0
    module.step = loaded.state["step"]
    return loaded.state["optimizer"]


class Stages(Callback):
    """Tells the watch where this process is."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_train_start(self, trainer: Trainer, pl_module: Pretraining) -> None:
        self.watch.at("data", pl_module.step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Pretraining, *_: Any) -> None:
        self.watch.at("step", pl_module.step + 1)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Pretraining, *_: Any) -> None:
        self.watch.at("data", pl_module.step)


class Checkpoints(StepCallback):
    """Everything a run needs to go on, and the encoder to keep beside it. Asked to stop, the run ends here.

    The last of the callbacks: what a checkpoint counts as done has been written by then. Several processes agree at each step
    whether to save or to stop, one step after the first of them was asked.
    """

    def __init__(
        self, saver: Saver, card: EncoderCard, about: About, moments: list[State], stop: StopSignals, watch: Watch
    ) -> None:
        self.card = card
        self.about = about
        self.moments = moments
        """The optimizer's state to begin with, or nothing; it is taken out, so that nobody keeps it."""
        self.stop = stop
        self.watch = watch
        self.saver = saver
        self.flags = Flags()
        self.before_save: list[Callable[[Pretraining], None]] = []
        """What is to be on disk before a checkpoint that counts it as done."""

    def on_train_start(self, trainer: Trainer, pl_module: Pretraining) -> None:
        super().on_train_start(trainer, pl_module)
        self.saved_step = pl_module.step
        self.optimizer = trainer.optimizers[0]
        self.stop.listen()
        asked = max(collect(self.stop.asked or 0))
        if asked:
            raise self.farewell(pl_module, asked)
        self.saved = time.monotonic()
        if self.moments:
            groups = self.optimizer.state_dict()["param_groups"]  # of this run: another strategy's steps are taken otherwise
            self.optimizer.load_state_dict({"state": self.moments.pop()["state"], "param_groups": groups})
        self.stop.idle = world_size() == 1

    def on_train_batch_start(self, *_: Any) -> None:
        self.stop.idle = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: Pretraining, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(trainer, pl_module)
        optim = pl_module.config.optim
        ended = (batch_idx + 1) % optim.accumulate_steps == 0
        self.stop.idle = ended and pl_module.step < optim.total_steps and world_size() == 1  # of several, all must leave together

    def on_step(self, trainer: Trainer, module: Pretraining) -> None:
        """Save when it is time to.

        Raises:
            Interrupted: the run was asked to stop, and is saved.
            UserError: the disk refused an earlier checkpoint.
        """
        config, last = module.config.checkpoint, module.step == module.config.optim.total_steps
        late = config.every_minutes is not None and time.monotonic() - self.saved >= 60 * config.every_minutes
        asked, late, refused = self.flags.exchange([int(self.stop.asked or 0), int(late and rank() == 0), int(self.saver.failed)])
        if refused:
            self.saver.settle()
        if due(module, config.every_steps) or late or asked:
            self.save(module, wait=bool(asked) or last or not config.background)
        if asked and not last:
            raise self.farewell(module, asked)

    def leave(self, module: Pretraining) -> Interrupted:
        """Save between two steps, unless that is done; what to raise then."""
        self.stop.idle = False
        if module.step > self.saved_step:
            self.save(module, wait=True)
        return self.farewell(module, int(self.stop.asked or 0))

    def farewell(self, module: Pretraining, asked: int) -> Interrupted:
        self.stop.asked = signal.Signals(asked) if asked else None
        name = self.stop.asked.name if self.stop.asked else "stop"
        where = f"after step {module.step} with a checkpoint" if module.step else "before the first step"
        return Interrupted(f"{name}: stopped in order {where}; the same command goes on")

    def save(self, module: Pretraining, wait: bool) -> None:
        """The encoder first: a run whose last checkpoint is there is finished, and its encoder must be too."""
        self.watch.at("checkpoint", module.step)
        module.check_finite()
        for write in self.before_save:
            write(module)
        folder, progress = module.config.folder, {"step": module.step, "samples": module.samples}
        card, weights = self.card.model_copy(update=progress), gather_weights(module.method.kept_encoder)

        def write_beside() -> None:
            save_weights(folder / "encoder", weights, card)
            for log in folder.glob("*.jsonl"):
                fsync(log)  # else a checkpoint could outlive the lines that lead to it

        state, own = snapshot(self.optimizer, module)
        self.saver.save(state, own, self.about.model_copy(update=progress), before=write_beside, wait=wait)
        self.saved, self.saved_step = time.monotonic(), module.step

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for what is still being written, unless another process may be gone, without which it would never be."""
        if world_size() == 1 or kind in (None, Interrupted):
            self.flags.settle()
            self.saver.close()
