"""Files that outlast a crash of the machine, and whose SHA-256 is known when they are written."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint.filesystem import FileSystem


class Damage(ValueError):
    """What is read of a checkpoint is not what was written."""


class HashedFile:
    """A file that is written from front to back, and the SHA-256 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.refusal: OSError | None = None

    def write(self, data: Any) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.refusal = error
            raise

    def tell(self) -> int:
        return self.file.tell()

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        """Nothing: it is synced before whoever opened it closes it."""


class HashedFiles(FileSystem):
    """Writes files into one folder, has each outlast a crash, and keeps their SHA-256 by name."""

    def __init__(self) -> None:
        self.hashes: dict[str, str] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        """Open a file to write.

        Raises:
            OSError: the disk refused it; its own error and not the one torch makes of it.
        """
        with Path(path).open(mode) as file:
            hashed = HashedFile(file)  # pyright: ignore[reportArgumentType]
            try:
                yield hashed
            except RuntimeError as error:
                raise hashed.refusal or error from None
            sync(file)  # pyright: ignore[reportArgumentType]
        self.hashes[Path(path).name] = hashed.digest.hexdigest()

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        super().rename(path, new_path)
        self.hashes[Path(new_path).name] = self.hashes.pop(Path(path).name)

    def save(self, value: Any, path: Path) -> None:
        """torch.save."""
        with self.create_stream(path, "wb") as file:
            torch.save(value, file)


def sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
