"""Checkpoints: folders that are whole or not there.

checkpoints/
step-00012000/state.pt     weights, target, optimiser, meters and the step; read with weights_only
last -> step-00012000      for people and scripts; only ever names a whole one
"""

import os
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from jepa_pipeline.config.errors import UserError

STATE, LAST, PARTIAL = "state.pt", "last", ".partial"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep_last: int) -> Path:
    """Write a checkpoint beside its final name, sync it, give it its name, and only then move `last` and drop old ones.

    Raises:
        UserError: the disk refused it; the checkpoints before are untouched.
    """
    final = folder / f"step-{step:08d}"
    partial = final.with_name(final.name + PARTIAL)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        with (partial / STATE).open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        sync_folder(folder)
        point_last(folder, final.name)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"checkpoint {final} could not be written: {error.strerror}; the ones before it are whole") from None
    for old in steps(folder)[:-keep_last]:
        shutil.rmtree(old)
    return final


def point_last(folder: Path, name: str) -> None:
    """Make `last` name a checkpoint in one indivisible rename."""
    pointer = folder / f".{LAST}"
    pointer.unlink(missing_ok=True)
    pointer.symlink_to(name)
    pointer.replace(folder / LAST)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def steps(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / STATE).is_file() and not path.name.endswith(PARTIAL))


def load_last(folder: Path) -> dict[str, Any] | None:
    """The state of the newest whole checkpoint, on the CPU; None if there is none.

    Raises:
        UserError: it was damaged after it was written.
    """
    kept = steps(folder)
    if not kept:
        return None
    try:
        return torch.load(kept[-1] / STATE, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{kept[-1]} is damaged ({reason}): delete that folder to go on from the checkpoint before it") from None
