"""The run folder: who it belongs to, and what it was made on."""

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

import torch

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.render import to_yaml
from jepa_pipeline.config.run import RESULT_NEUTRAL_KEYS, RunConfig
from jepa_pipeline.files import atomic_write
from jepa_pipeline.training import checkpoint
from jepa_pipeline.training.checkpoint import About, clear_leftovers
from jepa_pipeline.training.environment import describe_environment

Difference = tuple[str, str, str]
"""A key, its value in the run folder and its value now."""


REQUEUED_LOCK_TIMEOUT_S = 120.0
"""The same of a job that Slurm queued again: on a shared disk the lock of a machine that is gone lives on for a while."""
LOCK_TIMEOUT_S = 20.0
"""How long a run waits for another in its folder: the decoding processes of one that was killed take a few seconds to notice."""


@contextmanager
def lock_run_folder(config: RunConfig) -> Iterator[None]:
    """Holds the run folder, so that two processes never write in it; the claim ends with the process, however that ends.

    Raises:
        UserError: another process trains in it.
    """
    config.folder.mkdir(parents=True, exist_ok=True)
    with (config.folder / ".lock").open("w") as file:
        if not taken(file):
            raise UserError(
                f"another process is training in {config.folder}: wait for it or stop it, or choose another name for this run"
            )
        try:
            yield
        finally:
            if [path.name for path in config.folder.iterdir()] == [".lock"]:  # refused before it began
                shutil.rmtree(config.folder)


def taken(file: IO[str]) -> bool:
    """Whether a lock was to be had that the system gives back when the process is gone. A file system without locks says yes."""
    requeued = int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
    deadline = time.monotonic() + (REQUEUED_LOCK_TIMEOUT_S if requeued else LOCK_TIMEOUT_S)
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            return True
        else:
            return True


def check_same_run(config: RunConfig, data: str, device: str, tell: Callable[[str], object]) -> None:
    """Recognize the same run in the run folder; a run without a checkpoint has nothing to protect. `tell` hears of another torch.

    Raises:
        UserError: the folder holds a checkpoint of a run that computes something else, or on other data; with three columns.
    """
    about = newest_about(config)
    if about is None:
        return
    if about.torch != torch.__version__:
        tell(f"{config.folder} was made by torch {about.torch}, this is {torch.__version__}: the last bits may differ")
    differing = differences(about, config, data, device)
    if differing:
        raise UserError(
            f"{config.folder} holds a run that differs from this one:\n{columns([('key', 'there', 'here'), *differing])}\n"
            f"choose another name, take the values back, or delete that folder to start anew; "
            f"free to change are {', '.join(key.removesuffix('.') for key in RESULT_NEUTRAL_KEYS)}"
        )


def write_run_files(config: RunConfig, data: str) -> None:
    """Write into the run folder what makes the run, and remove what a killed one had half written."""
    environment = {"config_hash": config.hash(), "data_hash": data, **describe_environment()}
    clear_leftovers(config.folder / "checkpoints")
    atomic_write(config.folder / "environment.json", json.dumps(environment, indent=2) + "\n")
    atomic_write(config.folder / "config.yaml", to_yaml(config))


def newest_about(config: RunConfig) -> About | None:
    """What the newest readable checkpoint of a run is of."""
    return checkpoint.newest_about(config.folder / "checkpoints")


def differences(about: About, config: RunConfig, data: str, device: str) -> list[Difference]:
    """Whatever would make the run compute something else than what the checkpoint was made by."""
    old = {**about.results, "data.train (hash)": about.data, "trainer.accelerator (found)": about.device}
    new = {**config.results(), "data.train (hash)": data, "trainer.accelerator (found)": device}
    keys = sorted(old.keys() | new.keys())
    return [(key, f"{old.get(key)}", f"{new.get(key)}") for key in keys if old.get(key) != new.get(key)]


def columns(rows: list[Difference]) -> str:
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"  {key:<{first}}  {there:<{second}}  {here}" for key, there, here in rows)
