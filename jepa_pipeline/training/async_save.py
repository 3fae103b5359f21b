"""Writing checkpoints while training goes on."""

import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.trainer import CheckpointConfig
from jepa_pipeline.distributed import collect, host_group, rank, world_size
from jepa_pipeline.files import PARTIAL
from jepa_pipeline.training.checkpoint import ABOUT, STATE, About, State, drop_old, give_name, own_file
from jepa_pipeline.training.collectives import agreed
from jepa_pipeline.training.dcp_storage import Part, parts_here, stage, write_parts
from jepa_pipeline.training.files import HashedFiles
from jepa_pipeline.training.pytree import on_host, split


def nothing(*_: object) -> None:
    """Nothing is to be done."""


class Saver:
    """Writes the checkpoints of a run, one at a time, from a copy in the host's memory. All processes make one together.

    The copy is of what this process writes, is kept, and is used again. A thread writes it; it has a group of its own, so that
    the processes agree there without a word to those that train.
    """

    def __init__(self, folder: Path, config: CheckpointConfig, tell: Callable[[str], object] = nothing) -> None:
        """tell: hears on the first process, once, of old checkpoints that cannot be deleted."""
        self.folder = folder
        self.config = config
        self.tell = tell
        self.group = host_group()
        self.buffers: dict[str, Any] = {}
        self.thread: threading.Thread | None = None
        self.failure: BaseException | None = None

    def save(self, state: State, own: State, about: About, before: Callable[[], None] = nothing, wait: bool = False) -> None:
        """Save; all processes call it at the same step. What is given may change as soon as this returns.

        One that is still being written is waited for first.

        Args:
            state: what all processes hold together; its plain values are those of the first.
            own: what this one keeps for itself.
            about: what it is of; the number of processes and the hashes are filled in.
            before: called on the first process just before the checkpoint is given its name.
            wait: return only when it is whole, as always without checkpoint.background.

        Raises:
            UserError: the disk refused it on one of them, or the one before; those before are untouched.
        """
        self.settle()
        values, tensors = split(state)
        parts = parts_here(tensors)
        if wait or not self.config.background:
            self.write({"values": values, "tensors": list(tensors)}, parts, own, about, before)
            return
        copies = stage(parts, self.buffers)
        work = partial(self.write, {"values": values, "tensors": list(tensors)}, copies, on_host(own), about, before)
        self.thread = threading.Thread(target=self.attempt, args=(work,), name="checkpoint", daemon=True)
        self.thread.start()

    @property
    def failed(self) -> bool:
        """Whether what is written in the background has come to grief on this process; soon it has on all."""
        return self.failure is not None

    def check(self) -> None:
        """Raise what was raised in the background, without waiting for what is being written.

        One process may hear of it a step before another: several ask each other first whether it has failed on any, and then
        all settle.
        """
        if self.failed:
            self.settle()

    def close(self) -> None:
        """Wait for what is being written, and give the memory back.

        Raises:
            UserError: the disk refused it.
        """
        self.settle()
        self.buffers.clear()

    def settle(self) -> None:
        """Wait for what is being written, and raise what it raised."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    def attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # raised again where the run will hear of it
            self.failure = error

    def write(self, values: State, parts: dict[str, Part], own: State, about: About, before: Callable[[], None]) -> None:
        """Write a checkpoint beside its final name, sync it, give it its name, and only then move `last` and drop old ones."""
        final = self.folder / f"step-{about.step:08d}"
        place = final.with_name(final.name + PARTIAL)
        first = rank() == 0
        try:
            agreed(lambda: make_empty(place) if first else None, self.group)
            files = agreed(lambda: self.write_mine(place, parts, own), self.group)
            written = {name: digest for part in collect(files.hashes, self.group) for name, digest in part.items()}
            agreed(lambda: self.finish(place, final, values, about, written, before) if first else None, self.group)
        except Exception as error:
            if first:
                shutil.rmtree(place, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            raise UserError(
                f"checkpoint {final} could not be written: {error.strerror or error}; the ones before it are whole"
            ) from None

    def write_mine(self, place: Path, parts: dict[str, Part], own: State) -> HashedFiles:
        """What every process writes."""
        files = HashedFiles()
        write_parts(place, parts, files, self.group)
        files.save(own, place / own_file(rank()))
        return files

    def finish(
        self, place: Path, final: Path, values: State, about: About, written: dict[str, str], before: Callable[[], None]
    ) -> None:
        """What the first process does when all have written."""
        files = HashedFiles()
        files.save(values, place / STATE)
        whole = about.model_copy(update={"world": world_size(), "files": written | files.hashes})
        with files.create_stream(place / ABOUT, "wb") as file:
            file.write(whole.model_dump_json(indent=1).encode())
        before()
        give_name(place, final)
        refusal = drop_old(final, self.config.keep_last, self.config.keep_every)
        if refusal is not None:
            tell, self.tell = self.tell, nothing
            tell(f"an old checkpoint cannot be deleted ({refusal}): tried again with each new one")


def make_empty(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
