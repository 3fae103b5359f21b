"""Checkpoints written in the background while training continues."""

import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jepa_pipeline.config.errors import disk_error
from jepa_pipeline.config.trainer import CheckpointConfig
from jepa_pipeline.distributed import all_gather_object, new_gloo_group, rank, world_size
from jepa_pipeline.files import PARTIAL
from jepa_pipeline.training.checkpoint import (
    INFO,
    STATE,
    CheckpointInfo,
    State,
    commit,
    delete_old,
    list_checkpoints,
    rank_file,
)
from jepa_pipeline.training.collectives import run_on_all_ranks
from jepa_pipeline.training.dcp_storage import Shard, plan_shards, stage, write_shards
from jepa_pipeline.training.hashed_files import HashedFiles
from jepa_pipeline.training.pytree import copy_to_host, split_tensors


def no_op(*_: object) -> None:
    """Do nothing."""


class AsyncCheckpointWriter:
    """Writes the checkpoints of a run one at a time, all processes together, from a copy in host memory.

    The copy is of what this process writes alone, and its memory is used again. A thread writes it. The thread has a process group
    of its own, since collectives of two threads in one group would meet in any order.

    Args:
        folder: the run's checkpoints.
        config: `checkpoint` of the configuration.
        log: called on rank 0 with a sentence, once, if old checkpoints cannot be deleted.
    """

    def __init__(self, folder: Path, config: CheckpointConfig, log: Callable[[str], object] = no_op) -> None:
        self.folder = folder
        self.config = config
        self.log = log
        self.group = new_gloo_group()
        self.buffers: dict[str, Any] = {}
        self.thread: threading.Thread | None = None
        self.failure: BaseException | None = None

    def save(
        self,
        state: State,
        rank_state: State,
        info: CheckpointInfo,
        before_commit: Callable[[], None] = no_op,
        wait: bool = False,
    ) -> None:
        """Save a checkpoint, after the one that is still being written. All processes must call it at the same step.

        What is passed may change as soon as this returns.

        Args:
            state: of the run; its plain values are those of rank 0.
            rank_state: what this process keeps for itself.
            info: what it is of; number of processes and hashes are filled in.
            before_commit: called on rank 0 just before the checkpoint gets its name.
            wait: return only when it is complete, as always without checkpoint.background.

        Raises:
            UserError: the disk refused this checkpoint or the one before on any process; older ones are untouched.
        """
        self.wait()
        values, tensors = split_tensors(state)
        shards, values = plan_shards(tensors), {"values": values, "tensors": list(tensors)}
        if wait or not self.config.background:
            self.write(values, shards, rank_state, info, before_commit)
            return
        copies = stage(shards, self.buffers)
        work = partial(self.write, values, copies, copy_to_host(rank_state), info, before_commit)
        self.thread = threading.Thread(target=self.catch, args=(work,), name="checkpoint", daemon=True)
        self.thread.start()

    @property
    def failed(self) -> bool:
        """Return whether writing in the background failed on this process; then all processes call `wait` at the next step."""
        return self.failure is not None

    def close(self) -> None:
        """Wait for the checkpoint that is being written, and free the memory.

        Raises:
            UserError: the disk refused it.
        """
        self.wait()
        self.buffers.clear()

    def wait(self) -> None:
        """Wait for the checkpoint that is being written, and raise what writing it raised."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    def catch(self, work: Callable[[], None]) -> None:
        """Keep an error of the thread for `wait`."""
        try:
            work()
        except BaseException as error:
            self.failure = error

    def write(
        self, values: State, shards: dict[str, Shard], rank_state: State, info: CheckpointInfo, before_commit: Callable[[], None]
    ) -> None:
        """Write and sync a checkpoint under a temporary name, and commit it when all processes have written their part."""
        final = self.folder / f"step-{info.step:08d}"
        partial_folder = final.with_name(final.name + PARTIAL)
        first = rank() == 0
        try:
            run_on_all_ranks(lambda: make_empty(partial_folder) if first else None, self.group)
            files = run_on_all_ranks(lambda: self.write_own_files(partial_folder, shards, rank_state), self.group)
            hashes = {name: digest for part in all_gather_object(files.hashes, self.group) for name, digest in part.items()}
            info = info.model_copy(update={"world": world_size(), "files": hashes})
            run_on_all_ranks(lambda: self.finish(partial_folder, final, values, info, before_commit) if first else None, self.group)
        except Exception as error:
            if first:
                shutil.rmtree(partial_folder, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            if error.filename is None or partial_folder.name in f"{error.filename}":
                error.filename = f"checkpoint {final}"
            before = "the ones before it are complete" if list_checkpoints(self.folder) else "there is no earlier one"
            raise disk_error(error, before) from None

    def write_own_files(self, folder: Path, shards: dict[str, Shard], rank_state: State) -> HashedFiles:
        """Write this process's files."""
        files = HashedFiles()
        write_shards(folder, shards, files, self.group)
        files.save(rank_state, folder / rank_file(rank()))
        return files

    def finish(self, folder: Path, final: Path, values: State, info: CheckpointInfo, before_commit: Callable[[], None]) -> None:
        """Write rank 0's files, commit the checkpoint and delete old ones."""
        files = HashedFiles()
        files.save(values, folder / STATE)
        info = info.model_copy(update={"files": dict(sorted((info.files | files.hashes).items()))})
        with files.create_stream(folder / INFO, "wb") as file:
            file.write(info.model_dump_json(indent=1).encode())
        before_commit()
        commit(folder, final)
        error = delete_old(final, self.config.keep_last)
        if error is not None:
            log, self.log = self.log, no_op
            log(f"an old checkpoint could not be deleted ({error}); each new one tries again")


def make_empty(folder: Path) -> None:
    """Make an empty folder, and those around it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
