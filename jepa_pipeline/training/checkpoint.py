"""Checkpoints: folders that are complete or not there.

checkpoints/
step-00012000/.metadata, __R_0.distcp   all tensors of weights, target and optimizer, by torch.distributed.checkpoint
step-00012000/state.pt                  the other values, and where the tensors belong; read with weights_only
step-00012000/rank-0000.pt              what each process keeps for its own log lines; read with weights_only
step-00012000/about.json                what it is of, how many processes wrote it, and the SHA-256 of every file
last -> step-00012000                   for people and scripts; only ever names a complete one

One process and many write the same format, and any number of processes may read it, whatever their strategy.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from pydantic import Field, ValidationError

from jepa_pipeline.config.errors import UserError, first_line
from jepa_pipeline.config.section import Section
from jepa_pipeline.distributed import rank, world_size
from jepa_pipeline.files import DAMAGED, PARTIAL, DamagedFile, atomic_path, fsync, sha256_of, sweep
from jepa_pipeline.training.collectives import run_on_all_ranks, run_on_rank_zero
from jepa_pipeline.training.dcp_storage import INDEX, LoadTargets, read_tensors
from jepa_pipeline.training.pytree import merge_tensors

STATE, INFO, LAST = "state.pt", "about.json", "last"
DROPPED = ".dropped"
NAME = re.compile(r"step-\d{8,}")
METHOD_PREFIX = "method."
"""Prefix of the names of the method's tensors in a run's state."""

State = dict[str, Any]
"""Nested dicts, lists and tuples, whose leaves are tensors, sharded or not, and plain values."""


class CheckpointInfo(Section):
    """The description of a checkpoint: its about.json."""

    step: int = Field(description="Optimizer steps behind it.")
    samples: int = Field(description="Samples consumed, which is the whole position in the data.")
    version: str = Field(description="Version of jepa_pipeline that wrote it.")
    data: str = Field(description="Hash of the data.")
    config_hash: str = Field(description="Hash of the configuration.")
    torch: str = Field(description="Version of torch.")
    device: str = Field(description="Where it was computed: cpu or cuda.")
    results: dict[str, Any] = Field(description="Every value of the configuration that can change what is computed, by dotted key.")
    world: int = Field(default=1, ge=1, description="Processes that wrote it.")
    files: dict[str, str] = Field(default_factory=dict, description="SHA-256 of each file, in hex, by its name.")

    @property
    def sha256(self) -> str:
        """One hash for all files, in hex."""
        return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in sorted(self.files.items())).encode()).hexdigest()


class LoadedCheckpoint(NamedTuple):
    """A complete checkpoint in memory."""

    path: Path
    info: CheckpointInfo
    state: State
    rank_state: State | None
    """The state of this process alone; None if another number of processes wrote it."""


def rank_file(number: int) -> str:
    """Return the name of the file of what one process keeps for itself."""
    return f"rank-{number:04d}.pt"


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder by their names, oldest first."""
    return sorted(path for path in folder.glob("step-*") if NAME.fullmatch(path.name))


def step_of(checkpoint: Path) -> int:
    """Return the step in a checkpoint's name."""
    return int(checkpoint.name.removeprefix("step-"))


def commit(partial: Path, final: Path) -> None:
    """Give a completely written checkpoint its name, and only then let `last` name it."""
    fsync(partial)
    if final.exists():
        drop(final)
    partial.rename(final)
    fsync(final.parent)  # the name must outlast a crash before an older checkpoint is deleted
    with atomic_path(final.parent / LAST) as pointer:
        pointer.symlink_to(final.name)


def delete_old(final: Path, keep_last: int) -> OSError | None:
    """Delete all but the newest checkpoints and the one just written.

    Returns:
        The error that kept one from being deleted, such as a reader's on NFS; the next checkpoint tries again.
    """
    failure = None
    for old in list_checkpoints(final.parent)[:-keep_last]:
        if old != final:
            try:
                drop(old)
            except OSError as error:
                failure = error
    return delete_all(final.parent, DROPPED) or failure


def drop(checkpoint: Path) -> None:
    """Rename a checkpoint so that it no longer is one, before any of it is deleted."""
    leftover = checkpoint.with_name(checkpoint.name + DROPPED)
    shutil.rmtree(leftover, ignore_errors=True)
    checkpoint.rename(leftover)


def delete_all(folder: Path, suffix: str) -> OSError | None:
    """Delete the leftovers with a suffix; return the error that kept one from being deleted."""
    failure = None
    for leftover in folder.glob(f"step-*{suffix}"):
        try:
            shutil.rmtree(leftover)
        except OSError as error:
            failure = error
    return failure


def delete_leftovers(folder: Path) -> None:
    """Delete what a killed run left half written or half deleted, as far as it can be."""
    sweep(folder)
    for suffix in (PARTIAL, DROPPED):  # sweep leaves what it cannot lock, but nobody else writes checkpoints of this run
        delete_all(folder, suffix)


def unsharded(_: str) -> None:
    """Load all of every tensor on the CPU."""


def load_latest(folder: Path, log: Callable[[str], object], targets: LoadTargets = unsharded) -> LoadedCheckpoint | None:
    """Load the newest intact checkpoint, the same one on all processes, which must all call this; None if there never was one.

    Damaged ones are renamed, so that they never count as the newest again, and logged. An error that is no damage, such as a want
    of memory, is raised and leaves everything as it is.

    Args:
        folder: the run's checkpoints.
        log: called with a sentence for each damaged one.
        targets: see `load_checkpoint`.

    Raises:
        UserError: every checkpoint is damaged, or one could not be read or renamed.
    """
    loaded, damaged = load_latest_intact(folder, lambda text: log(f"{text}: set aside; resuming from the one before it"), targets)
    if loaded is None and damaged:
        last = list(damaged.values())[-1]
        raise UserError(f"{last} and no other is left: copy one back, or delete {folder.parent} to start anew")
    if damaged:
        try:
            run_on_rank_zero(lambda: [set_aside(checkpoint) for checkpoint in damaged])
        except OSError as error:
            raise UserError(f"{', '.join(damaged.values())} and cannot be renamed ({error.strerror}): move it away") from None
    return loaded


def load_latest_intact(
    folder: Path, log: Callable[[str], object], targets: LoadTargets
) -> tuple[LoadedCheckpoint | None, dict[Path, str]]:
    """Load the newest intact checkpoint; return it, or None, and a sentence on each damaged one after it. Nothing is renamed."""
    damaged = dict[Path, str]()
    for checkpoint in reversed(run_on_rank_zero(lambda: list_checkpoints(folder))):
        try:
            return load_checkpoint(checkpoint, targets), damaged
        except DamagedFile as error:
            damaged[checkpoint] = f"{checkpoint} is damaged ({first_line(error)})"
            log(damaged[checkpoint])
    return None, damaged


def set_aside(checkpoint: Path) -> None:
    """Rename a damaged checkpoint."""
    aside = checkpoint.with_name(checkpoint.name + DAMAGED)
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)


def latest_info(folder: Path) -> CheckpointInfo | None:
    """Return the info of the newest checkpoint that has a readable one; hashes are not checked."""
    for checkpoint in reversed(list_checkpoints(folder)):
        with suppress(DamagedFile, OSError):  # load_latest will report it and take the one before it
            return load_info(checkpoint)
    return None


def is_finished_at(folder: Path, step: int) -> bool:
    """Return whether the newest checkpoint is of this step, without reading its tensors. All processes must call it."""

    def check() -> bool:
        newest = list_checkpoints(folder)[-1:]
        if not newest or step_of(newest[0]) != step:
            return False
        info = latest_info(folder)
        return info is not None and info.step == step and all((newest[0] / name).is_file() for name in info.files)

    return run_on_rank_zero(check)


def load_checkpoint(checkpoint: Path, targets: LoadTargets = unsharded) -> LoadedCheckpoint:
    """Load a checkpoint and check its hashes, of which each process checks its share. All processes must call it.

    Args:
        checkpoint: its folder.
        targets: given the dotted name of a tensor, such as `optimizer.state.3.exp_avg`, returns the sharded tensor like which it
            is loaded, so that this process reads its shard alone; None: all of the tensor, on the CPU.

    Raises:
        DamagedFile: it is not what was written. This and every other error of one process is raised on all.
        UserError: the disk refused it on one process.
    """
    try:
        info = run_on_all_ranks(lambda: verify(checkpoint))
        state = run_on_all_ranks(lambda: load_state(checkpoint, info, targets))
        own = info.world == world_size()
        rank_state = run_on_all_ranks(lambda: load_values(checkpoint / rank_file(rank())) if own else None)
    except OSError as error:
        # One process may miss a file that the others see, as on a slow network disk: only what is gone for rank 0 is damage.
        lost = error.filename if isinstance(error, FileNotFoundError) else None
        if lost is not None and run_on_rank_zero(lambda: not os.path.exists(lost)):  # noqa: PTH110  # which never raises
            raise DamagedFile(f"{Path(lost).name} is missing") from None
        where = "".join(f" on {note}" for note in getattr(error, "__notes__", []))
        raise UserError(
            f"{checkpoint} could not be read{where} ({error.strerror or error}): run the same command again when the disk is back, "
            "or move the checkpoint away to resume without it"
        ) from None
    return LoadedCheckpoint(checkpoint, info, state, rank_state)


def verify(checkpoint: Path) -> CheckpointInfo:
    """Return a checkpoint's info after this process's share of its files was compared with their hashes."""
    info = load_info(checkpoint)
    if not {INDEX, STATE, *map(rank_file, range(info.world))} <= info.files.keys():
        raise DamagedFile(f"{INFO} does not name all files")
    for name in sorted(info.files)[rank() :: world_size()]:
        if Path(name).name != name or sha256_of(checkpoint / name) != info.files[name]:
            raise DamagedFile(f"{name} is not what was written")
    return info


def load_values(path: Path) -> Any:
    """Load what torch.save wrote. Its hash is good, so that only a pickle of anything but data makes it damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, UnpicklingError) as error:
        raise DamagedFile(f"{path.name}: {error}") from None


def load_state(checkpoint: Path, info: CheckpointInfo, targets: LoadTargets) -> State:
    """Load values and tensors and put them together."""
    saved = load_values(checkpoint / STATE)
    tensors = read_tensors(checkpoint, set(info.files), targets)
    if sorted(saved["tensors"]) != sorted(tensors):
        raise DamagedFile(f"{STATE} and {INDEX} name other tensors")
    return merge_tensors(saved["values"], tensors)


def load_info(checkpoint: Path) -> CheckpointInfo:
    """Load about.json.

    Raises:
        DamagedFile: it is none.
    """
    try:
        return CheckpointInfo.model_validate_json((checkpoint / INFO).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise DamagedFile(f"{INFO}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
