"""Files that a reader finds as they were or in full, never half written."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jepa_pipeline.redaction import redact

PARTIAL = ".partial"
"""Suffix of what is still being written; a killed process may leave it behind."""


class DamagedFile(ValueError):
    """A file is not what was written."""


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


def atomic_write(path: Path, text: str, *, exact: bool = False, private: bool = False) -> None:
    """Write a text file in one rename, without secrets. It is not synced: a crash of the machine may still lose it.

    Args:
        path: the file.
        text: its content.
        exact: write also the secrets in it, because it is read again.
        private: only its owner may read it.

    Raises:
        OSError: the disk refused it; an older file is still there.
    """
    with atomic_path(path) as temporary:
        if private:
            temporary.unlink(missing_ok=True)
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


def read_json_lines(path: Path) -> list[Any]:
    """Return the complete lines of a JSON lines file, none if there is no file; a killed run may leave half a line at its end."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
