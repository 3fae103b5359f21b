"""Checkpoints: folders that are whole or not there.

checkpoints/
step-00012000/state.pt     weights, target, optimiser, meters and the step; read with weights_only
step-00012000/about.json   what it is of, and the SHA-256 of state.pt
last -> step-00012000      for people and scripts; only ever names a whole one
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, NamedTuple

import torch
from pydantic import Field, ValidationError

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.section import Section
from jepa_pipeline.config.trainer import CheckpointConfig

STATE, ABOUT, LAST = "state.pt", "about.json", "last"
PARTIAL, DROPPED, DAMAGED = ".partial", ".dropped", ".damaged"
NAME = re.compile(r"step-\d{8,}")

State = dict[str, Any]


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
    sha256: str = Field(default="", description="SHA-256 of state.pt, in hex.")


def save_checkpoint(folder: Path, state: State, about: About, config: CheckpointConfig) -> Path:
    """Write a checkpoint beside its final name, sync it, give it its name, and only then move `last` and drop old ones.

    Raises:
        UserError: the disk refused it; the checkpoints before are untouched.
    """
    final = folder / f"step-{about.step:08d}"
    partial = final.with_name(final.name + PARTIAL)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        with (partial / STATE).open("wb") as file:
            hashed = HashedFile(file)
            hashed.save(state)
            sync(file)
        with (partial / ABOUT).open("wb") as file:
            file.write(about.model_copy(update={"sha256": hashed.digest.hexdigest()}).model_dump_json(indent=1).encode())
            sync(file)
        drop(final)
        partial.rename(final)
        sync_file(folder)
        point_last(folder, final.name)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"checkpoint {final} could not be written: {error.strerror}; the ones before it are whole") from None
    for old in steps(folder)[: -config.keep_last]:
        if old != final and (config.keep_every is None or step_of(old) % config.keep_every):
            drop(old)
    return final


class HashedFile:
    """A file that is written from front to back, and the SHA-256 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.refusal: OSError | None = None

    def save(self, state: State) -> None:
        """torch.save; where the disk refused, its own error and not the one torch makes of it."""
        try:
            torch.save(state, self)  # pyright: ignore[reportArgumentType]
        except RuntimeError as error:
            raise self.refusal or error from None

    def write(self, data: bytes | memoryview) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.refusal = error
            raise

    def flush(self) -> None:
        self.file.flush()


def sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Have a file, or the names in a folder, outlast a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def load_last(folder: Path, tell: Callable[[str], object]) -> Loaded | None:
    """The newest whole checkpoint, on the CPU; None if there was never one.

    Damaged ones are set aside under another name, so that they never count as the newest again, and `tell` hears of it.

    Raises:
        UserError: every checkpoint there was damaged after it was written.
    """
    damage, passed = "", list[Path]()
    for checkpoint in reversed(steps(folder)):
        try:
            loaded = load(checkpoint)
        except (OSError, ValueError, RuntimeError, EOFError, UnpicklingError) as error:
            damage = f"{checkpoint} is damaged ({str(error).splitlines()[0]})"
            passed.append(checkpoint)
            tell(f"{damage}: set aside, going on from the checkpoint before it")
            continue
        for bad in passed:
            set_aside(bad)
        return loaded
    if damage:
        raise UserError(f"{damage} and no other is left: copy one back, or delete {folder.parent} to start anew")
    return None


def set_aside(checkpoint: Path) -> None:
    aside = checkpoint.with_name(checkpoint.name + DAMAGED)
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)


def load(checkpoint: Path) -> Loaded:
    """Read a checkpoint and check it against its hash.

    Raises:
        ValueError: it is not what was written; other errors of reading pass.
    """
    about = read_about(checkpoint)
    with (checkpoint / STATE).open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != about.sha256:
            raise ValueError(f"{STATE} is not what was written")
        file.seek(0)
        return Loaded(checkpoint, about, torch.load(file, map_location="cpu", weights_only=True))


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
