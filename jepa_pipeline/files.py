"""Files that a reader finds as they were or in full, never half written."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import iglob
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from jepa_pipeline.redaction import redact

PARTIAL, DAMAGED = ".partial", ".damaged"
"""Suffixes of what is still being written, which a killed process may leave behind; and of what was set aside."""
STEP: Mapping[str, type] = MappingProxyType({"step": int})
"""Key of every row of a run's logs, and the type of its value; see read_json_lines."""
LOCK = ".lock"
"""File in a folder that is locked while the process that writes there lives."""
LEFT_BY_EARLIER_VERSIONS = re.compile(r"\.tmp\w{6}|\.step-\d{8}|\..+-[0-9a-f]{12}\.json")
"""Names of half-written weights, snapshots and reports."""


class DamagedFile(ValueError):
    """A file is not what was written."""


@contextmanager
def atomic_path(path: Path, sync: bool = False) -> Iterator[Path]:
    """Yield a path to write a file or folder to, which becomes `path` in one rename, or is deleted after an error.

    It lies in a folder of its own beside `path`, so that libraries may leave files of theirs there, and two processes that write
    the same file do not meet. What a killed process leaves is deleted by `sweep`.

    Args:
        path: the final path.
        sync: make what was written outlast a crash of the machine before the rename, and the rename too.

    Raises:
        OSError: the disk refused it, with the name of `path`; an older file is still there.
    """
    with name_errors(path), partial_folder(path) as folder:
        temporary = folder / path.name
        yield temporary
        if sync:
            fsync(temporary)
        temporary.replace(path)
        if sync:
            fsync(path.parent)


@contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` that is locked while it is entered, and deleted at the end."""
    folder, lock = lock_new_folder(path)
    try:
        with lock:
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def lock_new_folder(path: Path) -> tuple[Path, IO[str]]:
    """Return a new folder beside `path`, and its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(PARTIAL, f"{path.name[:40]}.", path.parent))
        try:
            lock = (folder / LOCK).open("a")
            if acquire(lock) is not False and (folder / LOCK).exists():
                return folder, lock
            lock.close()
        except FileNotFoundError:
            pass  # a sweep came between, which deletes only what it has locked itself
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def acquire(lock: IO[str]) -> bool | None:
    """Lock a file until it is closed or this process ends; return False if another has it, None if there are no locks here."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # flock, since the kernel releases it even after SIGKILL
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        return None
    return True


def sweep(folder: Path) -> None:
    """Delete what killed processes left half written in a folder, as far as it can be; what is still being written stays."""
    with suppress(OSError):
        for path in folder.iterdir():
            if not path.name.endswith(PARTIAL) and not LEFT_BY_EARLIER_VERSIONS.fullmatch(path.name):
                continue
            with suppress(OSError):
                if not path.is_dir() or path.is_symlink():
                    path.unlink()
                else:
                    delete_unlocked(path)


def glob_tolerant(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield what Path.glob does, and pass over folders that other processes delete meanwhile, at which it fails."""
    return (folder / name for name in iglob(pattern, root_dir=folder, recursive=True, include_hidden=True))  # noqa: PTH207


def sweep_beside(path: Path) -> None:
    """Delete the folders that killed processes left beside `path` while they wrote it by partial_folder, as far as they can be.

    Unlike sweep, it spares all else that is unfinished in that folder, such as what another command keeps to continue with.
    """
    left = re.compile(rf"{re.escape(path.name[:40])}\.\w{{8}}{re.escape(PARTIAL)}")
    with suppress(OSError):
        for folder in path.parent.iterdir():
            if not left.fullmatch(folder.name):
                continue
            with suppress(OSError):
                if {inside.name for inside in folder.iterdir()} <= {LOCK, path.name, path.name + PARTIAL}:
                    delete_unlocked(folder)


def delete_unlocked(folder: Path) -> None:
    """Delete a folder, unless the process that writes there lives."""
    with (folder / LOCK).open("a") as lock:
        if acquire(lock):
            shutil.rmtree(folder)


@contextmanager
def name_errors(path: Path) -> Iterator[None]:
    """Give an error of writing in this context the name of the file, which Python knows only at its opening."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or PARTIAL in f"{error.filename}"):
            error.filename = str(path)
        raise


def atomic_write(path: Path, text: str, *, exact: bool = False, private: bool = False) -> None:
    """Write a text file in one rename, without secrets. It is not synced: a crash of the machine may still lose it.

    Args:
        path: the file.
        text: its content.
        exact: write also the secrets in it, because it is read again.
        private: only its owner may read it.

    Raises:
        OSError: see atomic_path.
    """
    with atomic_path(path) as temporary:
        if private:
            temporary.touch(0o600)
        temporary.write_text(text if exact else redact(text))


@contextmanager
def public_mode(path: Path) -> Iterator[None]:
    """Give a file that is written in this context the permissions that the umask leaves; safetensors makes its files private."""
    path.touch()
    mode = path.stat().st_mode
    yield
    if path.stat().st_mode != mode:
        path.chmod(mode)


def fsync(path: Path) -> None:
    """Make a file, or the names in a folder, outlast a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def print_stderr(text: str) -> None:
    print(text, file=sys.stderr)


def read_json_lines(
    path: Path, keys: Mapping[str, type] = MappingProxyType({}), log: Callable[[str], object] = print_stderr
) -> list[dict[str, Any]]:
    """Return the objects of a JSON lines file, none if there is no file; a killed process may leave half a line at its end.

    Args:
        path: the file.
        keys: what each object has at least, and the type of its value.
        log: called with a sentence if other lines are no such objects, as after a fault of the disk; they are passed over.
    """
    *lines, last = path.read_bytes().split(b"\n") if path.exists() else [b""]
    rows = parse_json_lines(lines, keys)
    unreadable = sum(1 for line in lines if line.strip()) - len(rows)
    if unreadable:
        log(f"{path}: {unreadable} of {len(rows) + unreadable} lines cannot be read and are passed over")
    return rows + parse_json_lines([last], keys)


def parse_json_lines(lines: Iterable[bytes], keys: Mapping[str, type]) -> list[dict[str, Any]]:
    """Return the objects that have these keys; see read_json_lines."""
    rows = list[dict[str, Any]]()
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in keys.items()):
            rows.append(row)
    return rows


def read_to_rewrite(path: Path, keys: Mapping[str, type]) -> list[dict[str, Any]]:
    """Return the rows of a file that is about to be rewritten; where lines cannot be read, keep a copy of it and say so."""
    losses = list[str]()
    rows = read_json_lines(path, keys, losses.append)
    for loss in losses:
        names = (path.with_name(f"{path.name}{DAMAGED}{number or ''}") for number in count())
        aside = next(name for name in names if not name.exists())
        shutil.copyfile(path, aside)
        print_stderr(f"{loss}; the file as it was is kept as {aside.name}")
    return rows


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON lines file in one rename."""
    # The rows were in the file before, or are redacted: a pattern of secrets must not change a hash or a name in one.
    atomic_write(path, "".join(json.dumps(row) + "\n" for row in rows), exact=True)
