"""The run folder that was meant, where a path inside of it was given."""

from pathlib import Path


def run_around(path: Path) -> Path | None:
    """Return the run folder that a path lies in, such as RUN of RUN/checkpoints/last; None if it lies in none or is one."""
    parents = () if (path / "config.yaml").is_file() else path.parents
    return next((parent for parent in parents if (parent / "config.yaml").is_file() and (parent / "metrics.jsonl").is_file()), None)


def give_run(path: Path) -> str:
    """Return the end of a sentence about a path that is not a run folder: which one to give."""
    run = run_around(path)
    return f"give the run folder around it, {run}" if run else "give a run folder, such as runs/NAME"
