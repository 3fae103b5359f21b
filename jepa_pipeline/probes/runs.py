"""The run folders that reports belong to, and what they are called."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

SNAPSHOTS = "snapshots"
"""The folder of a run with its encoders of earlier steps, RUN/snapshots/STEP."""


def run_of(folder: Path) -> Path:
    """The run folder, given that or one of its snapshots: where the reports of both are."""
    return Path(os.path.normpath(folder / "../..")) if folder.resolve().parent.name == SNAPSHOTS else folder


def run_labels(folders: Sequence[Path]) -> dict[Path, str]:
    """What each folder is called in a table: its name, that of a snapshot with its run's, or its path where two share a name."""
    names = {folder: short_name(folder) for folder in dict.fromkeys(folders)}
    said = list(names.values())
    return {folder: name if said.count(name) == 1 else str(folder) for folder, name in names.items()}


def short_name(folder: Path) -> str:
    run, whole = run_of(folder), folder.resolve()
    return whole.name if run == folder else f"{run.resolve().name}/{whole.name}"


def commit_of(folder: Path) -> str | None:
    """The commit a run was begun at, with a + if the sources had been changed; None where nobody knows."""
    path = run_of(folder) / "environment.json"
    state = json.loads(path.read_text()).get("git") if path.is_file() else None
    return state and state["commit"] + ("+" if state["changed"] else "")
