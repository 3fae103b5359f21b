"""The folder beside a file of features in which it is made, and with which the same command continues after a kill.

Its states, in order:

1. Rows are added to ROWS and VALUES; see feature_rows.py.
2. The files are written to STAGED.
3. The plan has their hashes: they are whole, and are moved to their places one by one, `out` last.
4. All are in their places, and the folder is deleted, the plan last.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.section import Section
from jepa_pipeline.data.manifest import PLAN
from jepa_pipeline.data.plan import differing_keys, read_plan, write_plan
from jepa_pipeline.files import LOCK, PARTIAL, fsync, name_errors, sha256_of, sweep_beside
from jepa_pipeline.locks import Locked, lock_folder
from jepa_pipeline.probes.feature_rows import ROWS, VALUES, FeatureRows

STAGED = "staged"
"""Folder of the written files, and key of the plan once they are whole."""


class StagedFiles(Section):
    """The files that are written, and what is in them."""

    sha256: dict[str, str] = Field(description="SHA-256 of each file by name.")
    rows: int = Field(description="Rows of the file.")
    width: int = Field(description="Values of a feature.")

    def holds(self, path: Path) -> bool:
        """Return whether a file in its place is one of these, rather than somebody else's."""
        return path.is_file() and not path.is_symlink() and self.sha256.get(path.name) == sha256_of(path)


NONE_STAGED = StagedFiles(sha256={}, rows=0, width=0)


def written_files(out: Path) -> list[Path]:
    """Return the paths of all files of features: the array has the list of its rows and the metadata beside it."""
    return [out] if out.suffix == ".parquet" else [out, out.with_suffix(".jsonl"), out.with_suffix(".json")]


class UnfinishedFeatures:
    """A file of features that is being made, whose folder is locked.

    Args:
        out: the file.
        plan: all that decides what is computed, as JSON.
        staged: the files that an earlier process wrote.

    Attributes:
        rows: those that are finished.
        staged: whether those that are not in their places are written.
        complete: whether all files are in their places.
    """

    def __init__(self, out: Path, plan: Mapping[str, Any], staged: StagedFiles) -> None:
        self.out, self.plan, self.folder = out, plan, unfinished_folder(out)
        self.rows = FeatureRows(self.folder)
        there = [path for path in written_files(out) if os.path.lexists(path)]
        self.complete = there == written_files(out)
        waiting = [path for path in written_files(out) if path not in there]
        self.staged = bool(staged.sha256) and all(staged.holds(self.folder / STAGED / path.name) for path in waiting)
        if self.complete:  # the rows may be deleted
            self.rows.done, self.rows.width = staged.rows, staged.width
        else:
            self.rows.resume()

    @contextmanager
    def stage(self) -> Iterator[Path]:
        """Yield the path to write `out` to, with the other files beside it; after an error they are deleted."""
        folder = self.folder / STAGED
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        try:
            yield folder / self.out.name
            files = written_files(folder / self.out.name)
            for path in (*files, folder):
                fsync(path)
            hashes = {path.name: sha256_of(path) for path in files}
            staged = StagedFiles(sha256=hashes, rows=self.rows.done, width=self.rows.width)
            write_plan(self.folder, {**self.plan, STAGED: staged.model_dump()})
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # the disk may be full of them
            raise
        self.staged = True

    def publish(self) -> list[Path]:
        """Move the staged files to their places, and return these.

        Raises:
            UserError: there is another file, which came while this one was computed.
        """
        files = written_files(self.out)
        refuse_others(self.out, read_state(self.folder)[1])
        for path in reversed(files):
            if not os.path.lexists(path):
                (self.folder / STAGED / path.name).rename(path)
        fsync(self.out.parent)
        self.complete = True
        return files


def unfinished_folder(out: Path) -> Path:
    """Return the folder in which a file is made."""
    return out.with_name(out.name + PARTIAL)


def read_state(folder: Path) -> tuple[dict[str, Any] | None, StagedFiles]:
    """Return the plan in a folder, None if there is none, and the files that are staged or published by it."""
    plan = read_plan(folder)
    try:
        return plan, StagedFiles.model_validate(plan.pop(STAGED)) if plan and STAGED in plan else NONE_STAGED
    except ValidationError:
        return plan, NONE_STAGED


def check_replaced(out: Path) -> None:
    """Raise UserError if a file would be replaced, or a folder deleted, that no interrupted command left."""
    folder, staged = unfinished_folder(out), NONE_STAGED
    if os.path.lexists(folder):
        if not is_own(folder):
            raise UserError(
                f"{folder}, where unfinished rows are kept, was made by something else: move it away, or name another --out"
            )
        staged = read_state(folder)[1]
    refuse_others(out, staged)


def is_own(folder: Path) -> bool:
    """Return whether nothing is in a folder but what this module puts there."""
    own = {PLAN, ROWS, VALUES, LOCK, STAGED}
    return (
        folder.is_dir()
        and not folder.is_symlink()
        and all(path.name in own or path.name.endswith(PARTIAL) for path in folder.iterdir())
    )


def refuse_others(out: Path, staged: StagedFiles) -> None:
    """Raise UserError if one of the files is there already, and is not as it was staged."""
    # also links that lead nowhere, which would be replaced
    there = [path for path in written_files(out) if os.path.lexists(path) and not staged.holds(path)]
    beside = " and ".join(str(path) for path in there if path != out)
    if out in there:
        raise UserError(f"--out {out} is there already: delete it{beside and f', and {beside}'}, or name another file")
    if there:
        raise UserError(f"--out {out} would replace {beside}: delete or move what is there, or name another file")


@contextmanager
def unfinished_features(out: Path, plan: Mapping[str, Any]) -> Iterator[UnfinishedFeatures]:
    """Yield a file of features to make in a locked folder beside it, which is deleted at the end, but kept after an error.

    Args:
        out: the file.
        plan: all that decides what is computed, as JSON; what another plan left is deleted.

    Raises:
        UserError: another process is writing it, or a file is there already.
    """
    folder = unfinished_folder(out)
    try:
        with name_errors(out), lock_folder(folder):
            for path in written_files(out):
                sweep_beside(path)
            unfinished = take_over(out, plan)
            try:
                yield unfinished
            except BaseException:
                give_up(unfinished)
                raise
            delete(folder)
    except Locked as error:
        raise UserError(f"{error} is writing {folder}: wait for it or stop it, or name another file with --out") from None


def take_over(out: Path, plan: Mapping[str, Any]) -> UnfinishedFeatures:
    """Return what the same command left in the locked folder; delete what another left, unless files of it are in their places."""
    folder = unfinished_folder(out)
    found, staged = read_state(folder)
    try:
        refuse_others(out, staged)  # which the last holder of the lock may have written
    except UserError:
        if found is None:
            delete(folder)
        raise
    if found == plan:
        unfinished = UnfinishedFeatures(out, plan, staged)
        print(f"{folder} is continued: {unfinished.rows.done:,} rows of an interrupted command are kept")
        return unfinished
    if found is not None:
        keys = differing_keys(found, plan)
        if published := [path for path in written_files(out) if os.path.lexists(path)]:
            raise UserError(refuse_published(published, folder, keys))
        print(f"{folder} is begun anew: it was left by a command that differs in {keys}")
    clear(folder)
    write_plan(folder, plan)
    return UnfinishedFeatures(out, plan, NONE_STAGED)


def refuse_published(published: Sequence[Path], folder: Path, keys: str) -> str:
    names = ", ".join(map(str, published))
    return (
        f"{names} and {folder} are of an interrupted command that differs in {keys}: run that one again, which finishes them, or "
        "delete them, or name another file with --out"
    )


def give_up(unfinished: UnfinishedFeatures) -> None:
    """Keep an unfinished folder if there are features in it, and say so."""
    rows = unfinished.rows
    if rows.width:
        print(f"{rows.folder} keeps {rows.done:,} rows: the same command continues with them; else delete that folder")
    else:
        delete(rows.folder)


def clear(folder: Path) -> None:
    """Delete what is in a folder but its lock and its plan."""
    for path in folder.iterdir():
        if path.name not in (LOCK, PLAN):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def delete(folder: Path) -> None:
    """Delete the folder, the plan last, by which a command knows what it finds."""
    clear(folder)
    for name in (LOCK, PLAN):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # another process has locked it anew
        folder.rmdir()
