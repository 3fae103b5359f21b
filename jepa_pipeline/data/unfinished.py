"""The folder of a data set that is being written: locked by its writer, kept if that is killed, and continued by the next."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.config.output_place import check_place
from jepa_pipeline.config.section import Section
from jepa_pipeline.data.channel_stats import DeepRange, StoredSums, StoredTotals
from jepa_pipeline.data.index import index_path
from jepa_pipeline.data.manifest import PLAN, Shard, Skipped
from jepa_pipeline.data.plan import differing_keys, read_plan, write_plan
from jepa_pipeline.data.summary import print_lines
from jepa_pipeline.files import LOCK, PARTIAL, atomic_write, fsync, name_errors, read_json_lines, sha256_of
from jepa_pipeline.locks import Locked, lock_folder

PROGRESS = ".progress.jsonl"
"""File of each part of an unfinished folder: what is in its finished shards."""


class FinishedShard(Section):
    """A shard that outlasts its writer, and the sums over all samples up to its last."""

    shard: Shard
    done: int = Field(description="Samples and skipped files so far.")
    samples: int
    kind: DataKind
    extensions: tuple[str, ...]
    skipped: tuple[Skipped, ...] = Field(description="Those since the shard before.")
    channel_stats: tuple[tuple[float, ...], ...]
    without_rgb: int
    converted: int
    stored: dict[int, StoredSums]
    deep: DeepRange


class Progress:
    """The finished shards of a part of a data set, and the sums over its samples, which are the manifest's.

    Args:
        folder: of the part; None: an interruption loses all.

    Attributes:
        done: samples and skipped files so far, by which the samples that are given to the writer begin after an interruption.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.shards: list[Shard] = []
        self.done = self.samples = 0
        self.kind: DataKind = "images"
        self.extensions: set[str] = set()
        self.skipped: list[Skipped] = []
        self.channel_stats, self.without_rgb, self.converted = np.zeros((2, 3)), 0, 0
        self.stored = StoredTotals()
        self.deep = DeepRange()
        self._reported = 0

    def add(self, shard: Shard) -> None:
        """Enter a finished shard, once it and its index are on the disk."""
        self.shards.append(shard)
        if self.folder is None:
            return
        tar = self.folder / shard.file
        fsync(tar)
        fsync(index_path(tar))
        row = FinishedShard(
            shard=shard,
            done=self.done,
            samples=self.samples,
            kind=self.kind,
            extensions=tuple(sorted(self.extensions)),
            skipped=tuple(self.skipped[self._reported :]),
            channel_stats=tuple(map(tuple, self.channel_stats.tolist())),
            without_rgb=self.without_rgb,
            converted=self.converted,
            stored=self.stored,
            deep=self.deep,
        )
        self._reported = len(self.skipped)
        with (self.folder / PROGRESS).open("a") as file:
            file.write(row.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def resume(cls, folder: Path) -> "Progress":
        """Return what a folder holds of an interrupted build, after deleting from it what is not finished."""
        progress, rows = cls(folder), []
        for values in read_json_lines(folder / PROGRESS):
            try:
                row = FinishedShard.model_validate(values)
            except ValidationError:
                break
            # A row that cannot be read is passed over, and the sums of the next ones then do not follow.
            follows = row.samples == progress.samples + row.shard.samples
            if not follows or not is_whole(folder, row.shard):
                break  # the machine crashed, or somebody deleted it
            rows.append(row)
            progress.shards.append(row.shard)
            progress.done, progress.samples, progress.kind, progress.deep = row.done, row.samples, row.kind, row.deep
            progress.extensions, progress.channel_stats = set(row.extensions), np.array(row.channel_stats)
            progress.without_rgb, progress.stored = row.without_rgb, StoredTotals(row.stored)
            progress.converted = row.converted
            progress.skipped += row.skipped
        progress._reported = len(progress.skipped)
        if folder.exists():
            kept = {path.name for shard in progress.shards for path in (folder / shard.file, index_path(folder / shard.file))}
            clear(folder, {*kept, LOCK, PLAN})  # a single part is the unfinished folder itself
            if rows:
                atomic_write(folder / PROGRESS, "".join(f"{row.model_dump_json()}\n" for row in rows), exact=True)
        return progress


def is_whole(folder: Path, shard: Shard) -> bool:
    tar = folder / shard.file
    with suppress(FileNotFoundError):
        return tar.stat().st_size == shard.bytes and sha256_of(index_path(tar)) == shard.index_sha256
    return False


def is_new(folder: Path) -> bool:
    """Return whether nothing was written to a folder."""
    return not {path.name for path in folder.iterdir()} - {LOCK, PLAN}


def clear(folder: Path, kept: set[str]) -> None:
    """Delete all files and folders in a folder but those with these names."""
    for path in folder.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextmanager
def new_folder(out: Path, plan: Mapping[str, object] | None = None) -> Iterator[Path]:
    """Yield a folder beside `out` to write to, which becomes `out` at the end.

    After an error or a kill it is kept if shards were finished by a plan; a later call with the same plan yields it again.

    Args:
        out: a new or empty folder.
        plan: all that decides what is written, as JSON; None: nothing can be continued.

    Raises:
        UserError: `out` is not empty or cannot be made, or another process is writing it.
    """
    check_new(out)
    check_place(out)
    partial = out.with_name(out.name + PARTIAL)
    if partial.exists() and not is_new(partial) and not (partial / PLAN).exists():
        raise UserError(f"{partial} is not empty and was left by no build of this version: delete it or name another folder")
    try:
        with name_errors(out), lock_folder(partial, say):
            check_new(out)  # which the last holder of the lock may have written
            take_over(partial, plan)
            try:
                yield partial
            except BaseException:
                give_up(partial, plan is not None)
                raise
            for path in (*partial.rglob(PROGRESS), partial / PLAN):
                path.unlink()
            partial.rename(out)
            (out / LOCK).unlink()  # not before, when another could lock the folder anew and clear it
    except Locked as error:
        raise UserError(f"{error} is writing {partial}: wait for it or stop it, or name another folder") from None


def check_new(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder: name another one or delete it first")


def take_over(partial: Path, plan: Mapping[str, object] | None) -> None:
    """Keep what an interrupted build by the same plan has finished, and delete that of another."""
    found = read_plan(partial)
    finished = count_finished(partial)
    if found is not None and found == plan:
        say(f"{partial} is continued: {describe_shards(finished)} of a build that was interrupted")
        return
    if found is not None and finished:
        say(f"{partial} is begun anew: it was left by a build that differs in {differing_keys(found, plan or {})}")
    clear(partial, {LOCK})
    write_plan(partial, plan or {})


def give_up(partial: Path, can_continue: bool) -> None:
    """Delete an unfinished folder, unless it has shards with which the next build continues."""
    finished = count_finished(partial)
    if can_continue and finished:
        say(f"{partial} keeps {describe_shards(finished)}: the same command continues with them; else delete that folder")
    else:
        shutil.rmtree(partial, ignore_errors=True)  # the error that led here is the one to hear of


def count_finished(partial: Path) -> int:
    return sum(len(read_json_lines(path)) for path in partial.rglob(PROGRESS))


def describe_shards(count: int) -> str:
    return "1 finished shard" if count == 1 else f"{count} finished shards"


def say(sentence: str) -> None:
    print_lines([sentence])
