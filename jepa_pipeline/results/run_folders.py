"""Run folders: where the reports of a run and of its snapshots are, and their names in tables."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

SNAPSHOTS = "snapshots"
"""Folder of a run with its encoders of earlier steps, RUN/snapshots/STEP."""


def run_of(folder: Path) -> Path:
    """Return the run folder of a run folder or of one of its snapshots."""
    # normpath and not parent.parent, which of the relative path "step-5" within snapshots/ is "."
    return Path(os.path.normpath(folder / "../..")) if folder.resolve().parent.name == SNAPSHOTS else folder


def run_labels(folders: Sequence[Path]) -> dict[Path, str]:
    """Return a label per folder: its name, RUN/STEP for a snapshot, or its path if two folders have the same name."""
    names = {folder: short_name(folder) for folder in dict.fromkeys(folders)}
    labels = list(names.values())
    return {folder: name if labels.count(name) == 1 else str(folder) for folder, name in names.items()}


def short_name(folder: Path) -> str:
    run, path = run_of(folder), folder.resolve()
    return path.name if run == folder else f"{run.resolve().name}/{path.name}"


def commit_of(folder: Path) -> str | None:
    """Return the commit a run was started at, with a + if the sources had been modified; None if no readable file has it."""
    path = run_of(folder) / "environment.json"
    try:
        state = json.loads(path.read_bytes())["git"]
        return state and state["commit"] + ("+" if state["changed"] else "")
    except (OSError, ValueError, KeyError, TypeError):  # what it is for, the results, is elsewhere
        return None
