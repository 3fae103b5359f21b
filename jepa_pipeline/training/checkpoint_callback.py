"""Lightning callbacks between two steps: checkpoints are saved there, and a run that was asked to stop ends there."""

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_leaves_with_path

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.config.errors import Interrupted, UserError
from jepa_pipeline.distributed import AsyncFlags, all_gather_object, is_sharded, rank, world_size
from jepa_pipeline.files import fsync
from jepa_pipeline.models.weights import EncoderCard, check_weights, gather_weights, save_weights
from jepa_pipeline.training.async_save import AsyncCheckpointWriter
from jepa_pipeline.training.callbacks import StepCallback, is_due
from jepa_pipeline.training.checkpoint import METHOD_PREFIX, CheckpointInfo, LoadedCheckpoint, State
from jepa_pipeline.training.collectives import run_on_rank_zero
from jepa_pipeline.training.dcp_storage import LoadTargets
from jepa_pipeline.training.module import Pretraining
from jepa_pipeline.training.optim import build_optimizer
from jepa_pipeline.training.signals import StopSignals, interruption
from jepa_pipeline.training.watchdog import Watchdog
from lightning import Callback, Trainer


class RunState(NamedTuple):
    """Everything that decides how a run continues."""

    state: State
    rank_state: State
    """The state of each process for its own share of the log."""


def run_state(optimizer: torch.optim.Optimizer, module: Pretraining) -> RunState:
    """Return the state of a run between two steps. All processes must call it."""
    everything = module.state_dict()
    method = {name: value for name, value in everything.items() if name.startswith(METHOD_PREFIX)}
    skipped = sum(all_gather_object(module.skipped))
    state = {"step": module.step, "skipped": skipped, "module": method, "optimizer": optimizer.state_dict()}
    if callbacks := {c.state_key: check_plain(c, saved) for c in module.trainer.callbacks if (saved := c.state_dict())}:  # pyright: ignore[reportAttributeAccessIssue]
        state["callbacks"] = callbacks
    return RunState(state, own_meters(everything))


def check_plain(callback: Callback, state: State) -> State:
    """Return the state of a user's callback, if a checkpoint can hold it.

    Raises:
        UserError: it has other values than tensors and plain ones, which loading would refuse as programs.
    """
    for path, value in tree_leaves_with_path(state):
        if not isinstance(value, Tensor | int | float | str | bool | None):
            raise UserError(
                f"the state_dict of the callback {type(callback).__name__} has a value of type {type(value).__name__} at "
                f"{keystr(path)}: a checkpoint holds tensors, numbers, texts, lists and dictionaries"
            )
    return state


def restore_callbacks(callbacks: Sequence[Callback], module: Pretraining) -> Sequence[Callback]:
    """Load the states of the user's callbacks from the checkpoint that the module was restored from; return the callbacks."""
    for callback in callbacks:
        if callback.state_key in module.callback_states:
            callback.load_state_dict(module.callback_states[callback.state_key])
    return callbacks


def own_meters(state_dict: State) -> State:
    """Return the part of the module's state that is not the method's: what this process has measured for the log."""
    return {name: value for name, value in state_dict.items() if not name.startswith(METHOD_PREFIX)}


def sharded_targets(module: Pretraining) -> LoadTargets:
    """Return a function that gives, by its name in the checkpoint, the sharded tensor that a saved tensor is loaded into."""
    weights = module.state_dict()
    # The optimizer's state has the numbers of parameters in this order, and no tensors yet: each is sharded like its parameter.
    groups = build_optimizer(module.method, module.optim).param_groups
    parameters = [parameter for group in groups for parameter in group["params"]]

    def target(name: str) -> Tensor | None:
        kind, _, rest = name.partition(".")
        found = None
        if kind == "module":
            found = weights.get(rest)
        elif name.startswith("optimizer.state."):
            number, _, key = rest.removeprefix("state.").partition(".")
            if key != "step" and number.isdecimal() and int(number) < len(parameters):  # init_from: another run may have more
                found = parameters[int(number)]
        return found if isinstance(found, Tensor) and is_sharded(found) else None

    return target


def restore(module: Pretraining, loaded: LoadedCheckpoint) -> State:
    """Load a checkpoint into the module; return the state of the optimizer, which Lightning has not built yet."""
    # Without a rank state, as after another number of processes, the meters stay as they are: empty.
    rank_state = own_meters(module.state_dict()) if loaded.rank_state is None else loaded.rank_state
    module.load_state_dict({**loaded.state["module"], **rank_state}, strict=True)
    if loaded.rank_state is None:
        module.skipped = loaded.state["skipped"] if rank() == 0 else 0
    module.step = loaded.state["step"]
    module.callback_states = loaded.state.get("callbacks", {})
    return loaded.state["optimizer"]


def restore_encoder(run: Path, module: Pretraining, card: EncoderCard, log: Callable[[str], object]) -> None:
    """Write the encoder of a resumed run anew if it is not there, or not what was written. All processes must call it."""
    defect = run_on_rank_zero(lambda: find_defect(run, module.step)) if module.step else None
    if defect is not None:
        weights = gather_weights(module.method.encoder_to_export)
        card = card.model_copy(update={"step": module.step, "samples": module.samples})
        run_on_rank_zero(lambda: save_weights(run / "encoder", weights, card))
        log(f"{defect}: the encoder is written anew from the checkpoint of step {module.step}")


def find_defect(run: Path, step: int) -> str | None:
    """Return a sentence on why a run's encoder is not what was written at this step or later; None if it is, or seems to be."""
    try:
        card = check_weights(run / "encoder")
    except UserError as error:
        return str(error).rpartition(": ")[0] or str(error)  # without the cure, which follows
    return None if card.step >= step else f"{run / 'encoder'} is of step {card.step}"


class HeartbeatCallback(Callback):
    """Tells the watchdog what this process is doing."""

    def __init__(self, watchdog: Watchdog) -> None:
        self.watchdog = watchdog

    def on_train_start(self, trainer: Trainer, pl_module: Pretraining) -> None:
        self.watchdog.set_stage("data", pl_module.step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Pretraining, *_: Any) -> None:
        self.watchdog.set_stage("step", pl_module.step + 1)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Pretraining, *_: Any) -> None:
        self.watchdog.set_stage("data", pl_module.step)


class CheckpointCallback(StepCallback):
    """Saves checkpoints and the encoder to export, and ends a run that was asked to stop.

    It must come after all callbacks that write what a checkpoint counts as done (see callback_order.py). Several processes
    agree whether to save or to stop one step after the first of them was asked.

    Args:
        writer: writes the checkpoints.
        card: of the encoder to export; step and samples are filled in.
        info: of the checkpoints; step and samples are filled in.
        optimizer_state: the optimizer's state to begin with, or nothing; taken out of the list, so that it can be freed.
        stop: the signals that ask the run to stop.
        watchdog: is told when a checkpoint is written.

    Attributes:
        before_save: functions that write what must be on disk before a checkpoint counts it as done.
    """

    def __init__(
        self,
        writer: AsyncCheckpointWriter,
        card: EncoderCard,
        info: CheckpointInfo,
        optimizer_state: list[State],
        stop: StopSignals,
        watchdog: Watchdog,
    ) -> None:
        self.writer = writer
        self.card = card
        self.info = info
        self.optimizer_state = optimizer_state
        self.stop = stop
        self.watchdog = watchdog
        self.flags = AsyncFlags()
        self.before_save: list[Callable[[], None]] = []
        self.saved_step: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: Pretraining) -> None:
        super().on_train_start(trainer, pl_module)
        self.saved_step = pl_module.step
        self.optimizer = trainer.optimizers[0]
        self.stop.install_handlers()  # Lightning's fit has replaced them by its own
        requested = max(all_gather_object(self.stop.received or 0))
        if requested:
            raise self.interrupted(pl_module, requested)
        self.saved_time = time.monotonic()
        if self.optimizer_state:
            # The saved groups would bring back the options of the run that wrote them, such as foreach under another strategy.
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": self.optimizer_state.pop()["state"], "param_groups": groups})
        self.stop.between_steps = world_size() == 1

    def on_train_batch_start(self, *_: Any) -> None:
        self.stop.between_steps = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: Pretraining, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(trainer, pl_module)
        optim = pl_module.optim
        step_ended = (batch_idx + 1) % optim.accumulate_steps == 0
        # Of several processes none may leave by itself: the others would wait for it in the next collective.
        self.stop.between_steps = step_ended and pl_module.step < optim.total_steps and world_size() == 1

    def on_step(self, trainer: Trainer, module: Pretraining) -> None:
        """Save if it is time to.

        Raises:
            Interrupted: the run was asked to stop, and is saved.
            UserError: the disk refused an earlier checkpoint.
        """
        if self.stop.before_first_step:
            self.stop.before_first_step, self.stop.unsaved_since_s = False, time.monotonic()
        config, last = self.writer.config, module.step == module.optim.total_steps
        late = config.every_minutes is not None and time.monotonic() - self.saved_time >= 60 * config.every_minutes
        mine = [int(self.stop.received or 0), int(late and rank() == 0), int(self.writer.failed)]
        requested, late, failed = self.flags.exchange(mine)
        if failed:
            self.writer.wait()
        if is_due(module, config.every_steps) or late or requested:
            self.save(module, wait=bool(requested) or last or not config.background)
        if requested and not last:
            raise self.interrupted(module, requested)

    def save_and_interrupt(self, module: Pretraining) -> Interrupted:
        """Save between two steps unless that is done, and return what to raise then. In the first step there is nothing to save."""
        if self.saved_step is not None and module.step > self.saved_step and not self.stop.before_first_step:
            self.stop.between_steps = False
            self.save(module, wait=True)
        self.stop.between_steps = self.stop.before_first_step = False
        return self.interrupted(module, int(self.stop.received or 0), alone=True)

    def interrupted(self, module: Pretraining, requested: int, alone: bool = False) -> Interrupted:
        """Return the exception that ends a stopped run, with the signal that one of the processes received."""
        self.stop.received = signal.Signals(requested) if requested else None
        return interruption(self.stop.received, self.resume_step(module), self.stop.describe_restart(), alone)

    def resume_step(self, module: Pretraining) -> int:
        """Return the step from which a run that ends now resumes."""
        return module.step if self.saved_step is None else self.saved_step

    def save_early_end(self, module: Pretraining) -> None:
        """Save, and say so, if a callback of the user's has ended training before the last step."""
        if module.step < module.optim.total_steps:
            if self.saved_step != module.step:
                self.save(module, wait=True)
            self.writer.log(f"a callback ended the run after step {module.step} of {module.optim.total_steps}; it resumes there")

    def save(self, module: Pretraining, wait: bool) -> None:
        """Save a checkpoint, and before it gets its name the encoder: a run that ends with a checkpoint has its encoder too."""
        self.watchdog.set_stage("checkpoint", module.step)
        self.stop.saving = True
        module.check_finite()
        for write in self.before_save:
            write()
        folder, progress = self.writer.folder.parent, {"step": module.step, "samples": module.samples}
        card, weights = self.card.model_copy(update=progress), gather_weights(module.method.encoder_to_export)

        def write_encoder_and_sync_logs() -> None:
            save_weights(folder / "encoder", weights, card)
            for log in folder.glob("*.jsonl"):
                fsync(log)  # after a crash of the machine a checkpoint must not know of more steps than the logs

        state, rank_state = run_state(self.optimizer, module)
        info = self.info.model_copy(update=progress)
        self.writer.save(state, rank_state, info, before_commit=write_encoder_and_sync_logs, wait=wait)
        self.saved_time = self.stop.unsaved_since_s = time.monotonic()
        self.saved_step, self.stop.saving = module.step, False

    def __enter__(self) -> "CheckpointCallback":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for what is being written; after an error of several processes not, since it may never end without the others."""
        if world_size() == 1 or kind in (None, Interrupted):
            self.flags.wait()
            self.writer.close()
