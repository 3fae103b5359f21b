"""Checkpoints: folders that are whole or not there.

checkpoints/
step-00012000/.metadata, __R_0.distcp   every tensor of weights, target and optimizer, by torch.distributed.checkpoint
step-00012000/state.pt                  everything that is no tensor, and where the tensors belong; read with weights_only
step-00012000/rank-0000.pt              what each process keeps for its own log lines; read with weights_only
step-00012000/about.json                what it is of, how many processes wrote it, and the SHA-256 of every file
last -> step-00012000                   for people and scripts; only ever names a whole one

One format for one process and for many; as many as like may read it, however the tensors are dealt out to them.
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

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.section import Section
from jepa_pipeline.distributed import rank, world_size
from jepa_pipeline.files import PARTIAL, atomic_path, fsync, sha256_of
from jepa_pipeline.training.collectives import agreed, by_first
from jepa_pipeline.training.dcp_storage import INDEX, Like, read_tensors
from jepa_pipeline.training.files import Damage
from jepa_pipeline.training.pytree import join

STATE, ABOUT, LAST = "state.pt", "about.json", "last"
DROPPED, DAMAGED = ".dropped", ".damaged"
NAME = re.compile(r"step-\d{8,}")

State = dict[str, Any]
"""Nested dicts, lists and tuples; at the leaves tensors, of which each process may hold a part, and plain values."""


class About(Section):
    """What a checkpoint is of."""

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


def own_file(number: int) -> str:
    """The file of what one process keeps for itself."""
    return f"rank-{number:04d}.pt"


def give_name(partial: Path, final: Path) -> None:
    """Give a checkpoint that is all written its name, and only then move `last`."""
    fsync(partial)
    if final.exists():
        retire(final)
    partial.rename(final)
    fsync(final.parent)
    point_last(final.parent, final.name)


def drop_old(final: Path, keep_last: int, keep_every: int | None) -> OSError | None:
    """Delete all but the newest, those that are kept for ever, and the one just written.

    Returns:
        What kept one from being deleted, such as a reader on NFS; with the next checkpoint it is tried again.
    """
    failure = None
    for old in steps(final.parent)[:-keep_last]:
        if old != final and (keep_every is None or step_of(old) % keep_every):
            try:
                retire(old)
            except OSError as error:
                failure = error
    return sweep(final.parent, DROPPED) or failure


def point_last(folder: Path, name: str) -> None:
    """Make `last` name a checkpoint in one indivisible rename."""
    with atomic_path(folder / LAST) as pointer:
        pointer.unlink(missing_ok=True)  # left by a process that was killed
        pointer.symlink_to(name)


def retire(checkpoint: Path) -> None:
    """Have a checkpoint be one no more; what remains of it is recognized as a leftover."""
    leftover = checkpoint.with_name(checkpoint.name + DROPPED)
    shutil.rmtree(leftover, ignore_errors=True)
    checkpoint.rename(leftover)


def sweep(folder: Path, suffix: str) -> OSError | None:
    """Delete the leftovers of a kind; what kept one from being deleted."""
    failure = None
    for leftover in folder.glob(f"step-*{suffix}"):
        try:
            shutil.rmtree(leftover)
        except OSError as error:
            failure = error
    return failure


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed run had half written or half deleted, as far as it can be."""
    for suffix in (PARTIAL, DROPPED):
        sweep(folder, suffix)
    (folder / f"{LAST}{PARTIAL}").unlink(missing_ok=True)


def steps(folder: Path) -> list[Path]:
    """Checkpoints, oldest first, as far as their names say."""
    return sorted(path for path in folder.glob("step-*") if NAME.fullmatch(path.name))


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


class Loaded(NamedTuple):
    """A checkpoint that was read whole."""

    path: Path
    about: About
    state: State
    own: State | None
    """What this process kept for itself; None where another number of processes wrote it."""


def anywhere(_: str) -> None:
    """All of every tensor, on the CPU."""


def load_last(folder: Path, tell: Callable[[str], object], like: Like = anywhere) -> Loaded | None:
    """The newest whole checkpoint; None if there was never one. All processes call it, and get the same one.

    Damaged ones are set aside under another name, so that they never count as the newest again, and `tell` hears of it. What is
    no damage, such as a want of memory, is raised and leaves all as it is. `like` says how each tensor is read, as for load.

    Raises:
        UserError: every checkpoint there was damaged after it was written; or one could not be read or set aside.
    """
    found, damage = find_whole(folder, lambda text: tell(f"{text}: set aside, going on from the checkpoint before it"), like)
    if found is None and damage:
        last = list(damage.values())[-1]
        raise UserError(f"{last} and no other is left: copy one back, or delete {folder.parent} to start anew")
    if damage:
        try:
            by_first(lambda: [set_aside(bad) for bad in damage])
        except OSError as error:
            raise UserError(f"{', '.join(damage.values())} and cannot be renamed ({error.strerror}): move it away") from None
    return found


def find_whole(folder: Path, tell: Callable[[str], object], like: Like) -> tuple[Loaded | None, dict[Path, str]]:
    """The newest whole checkpoint, and what is wrong with those after it, of which `tell` hears at once; nothing is renamed."""
    damage = dict[Path, str]()
    for checkpoint in reversed(by_first(lambda: steps(folder))):
        try:
            return load(checkpoint, like), damage
        except Damage as error:
            damage[checkpoint] = f"{checkpoint} is damaged ({str(error).splitlines()[0]})"
            tell(damage[checkpoint])
    return None, damage


def set_aside(checkpoint: Path) -> None:
    aside = checkpoint.with_name(checkpoint.name + DAMAGED)
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)


def newest_about(folder: Path) -> About | None:
    """What the newest checkpoint is of whose about.json can be read; the hashes of its files are not checked."""
    for checkpoint in reversed(steps(folder)):
        with suppress(Damage, OSError):  # loading it will say so, and go on from the one before it
            return read_about(checkpoint)
    return None


def ends_at(folder: Path, step: int) -> bool:
    """Whether the newest checkpoint is of this step, by its name and files, which are not read. All processes must ask."""

    def look() -> bool:
        newest = steps(folder)[-1:]
        if not newest or step_of(newest[0]) != step:
            return False
        about = newest_about(folder)
        return about is not None and about.step == step and all((newest[0] / name).is_file() for name in about.files)

    return by_first(look)


def load(checkpoint: Path, like: Like = anywhere) -> Loaded:
    """Read a checkpoint and check it against its hashes, of which each process checks some.

    Given the dotted name of a tensor, such as `optimizer.state.3.exp_avg`, `like` names the tensor into whose like it is read:
    of one that is dealt out this process reads its part alone. With None it is all of the tensor, on the CPU.

    Raises:
        Damage: it is not what was written. This and all else that goes wrong on one process, all raise.
        UserError: the disk refused it on one of them.
    """
    try:
        about = agreed(lambda: check(checkpoint))
        state = agreed(lambda: read_state(checkpoint, about, like))
        own = agreed(lambda: read_values(checkpoint / own_file(rank())) if about.world == world_size() else None)
    except OSError as error:
        lost = error.filename if isinstance(error, FileNotFoundError) else None
        if lost is not None and by_first(lambda: not os.path.exists(lost)):  # noqa: PTH110  # which never raises
            raise Damage(f"{Path(lost).name} is missing") from None
        where = "".join(f" on {place}" for place in getattr(error, "__notes__", []))
        raise UserError(
            f"{checkpoint} could not be read{where} ({error.strerror or error}): run the same command again when it can be, or "
            "move it away to go on without it"
        ) from None
    return Loaded(checkpoint, about, state, own)


def check(checkpoint: Path) -> About:
    """What a checkpoint is of; this process's share of its files is compared with their hashes."""
    about = read_about(checkpoint)
    if not {INDEX, STATE, *map(own_file, range(about.world))} <= about.files.keys():
        raise Damage(f"{ABOUT} does not name all files")
    for name in sorted(about.files)[rank() :: world_size()]:
        if Path(name).name != name or sha256_of(checkpoint / name) != about.files[name]:
            raise Damage(f"{name} is not what was written")
    return about


def read_values(path: Path) -> Any:
    """What torch.save wrote. Its hash is good: only what is no data makes it damage."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, UnpicklingError) as error:
        raise Damage(f"{path.name}: {error}") from None


def read_state(checkpoint: Path, about: About, like: Like) -> State:
    """The tensors, put back among the values."""
    saved = read_values(checkpoint / STATE)
    tensors = read_tensors(checkpoint, set(about.files), like)
    if sorted(saved["tensors"]) != sorted(tensors):
        raise Damage(f"{STATE} and {INDEX} name other tensors")
    return join(saved["values"], tensors)


def read_about(checkpoint: Path) -> About:
    """What a checkpoint is of.

    Raises:
        Damage: its about.json is none.
    """
    try:
        return About.model_validate_json((checkpoint / ABOUT).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise Damage(f"{ABOUT}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
