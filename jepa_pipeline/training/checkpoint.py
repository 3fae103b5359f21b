"""Checkpoints: folders that are whole or not there.

checkpoints/
step-00012000/.metadata, __R_0.distcp   every tensor of weights, target and optimiser, by torch.distributed.checkpoint
step-00012000/state.pt                  everything that is no tensor, and where the tensors belong; read with weights_only
step-00012000/rank-0000.pt              what each process keeps for its own log lines; read with weights_only
step-00012000/about.json                what it is of, how many processes wrote it, and the SHA-256 of every file
last -> step-00012000                   for people and scripts; only ever names a whole one

One format for one process and for many; as many as like may read it, however the tensors are dealt out to them.
"""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple, TypeVar

import torch
from pydantic import Field, ValidationError
from torch.distributed import ProcessGroup

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.section import Section
from jepa_pipeline.distributed import barrier, collect, lost_contact, rank, world_size
from jepa_pipeline.training.files import sha256_of, sync_file
from jepa_pipeline.training.sharded import INDEX, Like, read_tensors
from jepa_pipeline.training.tree import join

STATE, ABOUT, LAST = "state.pt", "about.json", "last"
PARTIAL, DROPPED, DAMAGED = ".partial", ".dropped", ".damaged"
NAME = re.compile(r"step-\d{8,}")

State = dict[str, Any]
"""Nested dicts, lists and tuples; at the leaves tensors, of which each process may hold a part, and plain values."""

T = TypeVar("T")


class About(Section):
    """What a checkpoint is of."""

    step: int = Field(description="Optimiser steps behind it.")
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
    sync_file(partial)
    drop(final)
    partial.rename(final)
    sync_file(final.parent)
    point_last(final.parent, final.name)


def drop_old(final: Path, keep_last: int, keep_every: int | None) -> None:
    """Delete all but the newest, those that are kept for ever, and the one just written."""
    for old in steps(final.parent)[:-keep_last]:
        if old != final and (keep_every is None or step_of(old) % keep_every):
            drop(old)


def point_last(folder: Path, name: str) -> None:
    """Make `last` name a checkpoint in one indivisible rename."""
    pointer = folder / f".{LAST}"
    pointer.unlink(missing_ok=True)
    pointer.symlink_to(name)
    pointer.replace(folder / LAST)


def drop(checkpoint: Path) -> None:
    """Delete a checkpoint; killed half-way, what remains of it is recognised as a leftover."""
    if checkpoint.exists():
        leftover = checkpoint.with_name(checkpoint.name + DROPPED)
        shutil.rmtree(leftover, ignore_errors=True)
        checkpoint.rename(leftover)
        shutil.rmtree(leftover)


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed run had half written or half deleted."""
    for suffix in (PARTIAL, DROPPED):
        for leftover in folder.glob(f"step-*{suffix}"):
            shutil.rmtree(leftover)
    (folder / f".{LAST}").unlink(missing_ok=True)


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

    Damaged ones are set aside under another name, so that they never count as the newest again, and `tell` hears of it.
    `like` says how each tensor is read, as for load.

    Raises:
        UserError: every checkpoint there was damaged after it was written.
    """
    damage, passed = "", list[Path]()
    for checkpoint in reversed(collect(steps(folder))[0]):
        try:
            loaded = load(checkpoint, like)
        except (OSError, ValueError, RuntimeError, EOFError, UnpicklingError) as error:
            if isinstance(error, torch.OutOfMemoryError) or lost_contact(error):
                raise  # no fault of the checkpoint
            damage = f"{checkpoint} is damaged ({str(error).splitlines()[0]})"
            passed.append(checkpoint)
            tell(f"{damage}: set aside, going on from the checkpoint before it")
            continue
        if rank() == 0:
            for bad in passed:
                set_aside(bad)
        barrier()
        return loaded
    if damage:
        raise UserError(f"{damage} and no other is left: copy one back, or delete {folder.parent} to start anew")
    return None


def set_aside(checkpoint: Path) -> None:
    aside = checkpoint.with_name(checkpoint.name + DAMAGED)
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)


def load(checkpoint: Path, like: Like = anywhere) -> Loaded:
    """Read a checkpoint and check it against its hashes, of which each process checks some.

    Given the dotted name of a tensor, such as `optimizer.state.3.exp_avg`, `like` names the tensor into whose like it is read:
    of one that is dealt out this process reads its part alone. With None it is all of the tensor, on the CPU.

    Raises:
        ValueError: it is not what was written; other errors of reading pass. All processes raise the same.
    """
    about = agreed(lambda: check(checkpoint))
    state = agreed(lambda: read_state(checkpoint, about, like))
    own = agreed(lambda: read_values(checkpoint / own_file(rank())) if about.world == world_size() else None)
    return Loaded(checkpoint, about, state, own)


def agreed(work: Callable[[], T], group: ProcessGroup | None = None) -> T:
    """What a piece of work gives on this process, once it is done on all; what one of them raises, all raise."""
    try:
        result, error = work(), None
    except Exception as caught:
        result, error = None, caught
    for first in collect(portable(error), group):
        if first is not None:
            raise first from None if first is error else error
    return result  # pyright: ignore[reportReturnType]


def portable(error: Exception | None) -> Exception | None:
    """An error as other processes can learn of it."""
    if world_size() == 1 or error is None or isinstance(error, OSError | ValueError | EOFError | RuntimeError | UnpicklingError):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def check(checkpoint: Path) -> About:
    """What a checkpoint is of; this process's share of its files is compared with their hashes."""
    about = read_about(checkpoint)
    if not {INDEX, STATE, *map(own_file, range(about.world))} <= about.files.keys():
        raise ValueError(f"{ABOUT} does not name all files")
    for name in sorted(about.files)[rank() :: world_size()]:
        if Path(name).name != name or sha256_of(checkpoint / name) != about.files[name]:
            raise ValueError(f"{name} is not what was written")
    return about


def read_values(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def read_state(checkpoint: Path, about: About, like: Like) -> State:
    """The tensors, put back among the values."""
    saved = read_values(checkpoint / STATE)
    tensors = read_tensors(checkpoint, set(about.files), like)
    if sorted(saved["tensors"]) != sorted(tensors):
        raise ValueError(f"{STATE} and {INDEX} name other tensors")
    return join(saved["values"], tensors)


def read_about(checkpoint: Path) -> About:
    """What a checkpoint is of.

    Raises:
        ValueError: its about.json is damaged.
    """
    try:
        return About.model_validate_json((checkpoint / ABOUT).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{ABOUT}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
