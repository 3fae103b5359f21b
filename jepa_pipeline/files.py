"""Files that a reader finds as they were or in full, never half written."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".partial"
"""Suffix of what is still being written; a killed process may leave it behind."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to, which becomes `path` in one rename, or is deleted after an error."""
    temporary = path.with_name(path.name + PARTIAL)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to hear of
            temporary.unlink(missing_ok=True)
        raise


def atomic_write(path: Path, text: str) -> None:
    """Write a text file in one rename. It is not synced: a crash of the machine may still lose it.

    Raises:
        OSError: the disk refused it; an older file is still there.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text)


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
