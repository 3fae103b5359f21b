"""The plan of an unfinished folder: all that decides what is written to it, so that only the same command continues it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jepa_pipeline.data.manifest import PLAN
from jepa_pipeline.files import atomic_path


def read_plan(folder: Path) -> dict[str, Any] | None:
    """Return the plan in a folder; None if there is none, or a damaged one."""
    try:
        plan = json.loads((folder / PLAN).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return plan if isinstance(plan, dict) else None


def write_plan(folder: Path, plan: Mapping[str, Any]) -> None:
    """Write a plan whose values are JSON, durably; secrets stay in it, because it is compared."""
    with atomic_path(folder / PLAN, sync=True) as partial:
        partial.write_text(json.dumps(plan))


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return the keys in which two plans differ, for a message."""
    return ", ".join(sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key)))
