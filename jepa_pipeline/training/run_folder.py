"""The run folder: its lock, the check that it belongs to this run, and the files that describe the run."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.removed import result_value, upgrade_saved
from jepa_pipeline.config.render import save_config
from jepa_pipeline.config.run import RESULT_NEUTRAL_KEYS, RunConfig
from jepa_pipeline.files import LOCK, atomic_write, sweep
from jepa_pipeline.locks import Locked, lock_folder
from jepa_pipeline.training.checkpoint import CheckpointInfo, delete_leftovers, latest_info
from jepa_pipeline.training.environment import describe_environment

FOLDERS = ("encoder", "snapshots", "probes", "energy", "jobs")
"""Folders of a run in which files are written in one rename, and where a killed process may leave half of one."""

Difference = tuple[str, str, str]
"""A key, its value in the run folder and its value now."""


@contextmanager
def lock_run_folder(run: Path, log: Callable[[str], object] = print) -> Iterator[None]:
    """Create and lock a run folder, so that two processes never write to it. The lock ends with the process.

    Args:
        run: the run folder.
        log: called with a sentence if the lock does not come at once.

    Raises:
        UserError: another process is training in it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_folder(run, log))
        except Locked as error:
            raise UserError(
                f"another process is training in {run}: wait for it or stop it ({error}), or choose another name for this run"
            ) from None
        try:
            yield
        finally:
            if [path.name for path in run.iterdir()] == [LOCK]:  # the run was refused before it wrote anything
                shutil.rmtree(run)


def check_same_run(run: Path, info: CheckpointInfo, log: Callable[[str], object]) -> None:
    """Check that a run folder holds no checkpoint, or one of this run.

    Args:
        run: the run folder.
        info: describes this run, at any step.
        log: prints a sentence if torch's version differs.

    Raises:
        UserError: the newest checkpoint is of a run with other results, data or device; lists them in three columns.
    """
    saved = latest_info(run / "checkpoints")
    if saved is None:
        return
    if saved.torch != info.torch:
        log(f"{run} was trained with torch {saved.torch}, this is {info.torch}: results may differ in the last bits")
    differences = compare(saved, info)
    if differences:
        raise UserError(
            f"{run} holds a run that differs from this one:\n{format_columns([('key', 'there', 'here'), *differences])}\n"
            f"choose another name, restore the values, or delete that folder to start over; "
            f"free to change are {', '.join(key.removesuffix('.') for key in RESULT_NEUTRAL_KEYS)}"
        )


def compare(saved: CheckpointInfo, info: CheckpointInfo) -> list[Difference]:
    """Return everything in which two runs differ that can change their results."""
    saved_results = upgrade_saved(saved.results)  # an earlier version may have written them
    old, new = (
        {**results, "data.train (hash)": run.data, "trainer.accelerator (found)": run.device}
        for run, results in ((saved, saved_results), (info, info.results))
    )
    keys = sorted(old.keys() | new.keys())
    values = [(key, result_value(old, key), result_value(new, key)) for key in keys]
    return [(key, f"{there}", f"{here}") for key, there, here in values if there != here]


def format_columns(rows: list[Difference]) -> str:
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"  {key:<{first}}  {there:<{second}}  {here}" for key, there, here in rows)


def write_run_files(config: RunConfig, data_hash: str) -> None:
    """Write config.yaml and environment.json, and delete what a killed run left unfinished."""
    environment = {"config_hash": config.hash(), "data_hash": data_hash, **describe_environment()}
    delete_leftovers(config.folder / "checkpoints")
    for folder in (config.folder, *(config.folder / name for name in FOLDERS), *config.folder.glob("snapshots/*/")):
        sweep(folder)
    atomic_write(config.folder / "environment.json", json.dumps(environment, indent=2) + "\n")
    save_config(config.folder / "config.yaml", config)
