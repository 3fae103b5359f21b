"""Files whose SHA-256 is known when they are written, without reading them again."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint.filesystem import FileSystem

from jepa_pipeline.training.pytree import canonical


class HashedFile:
    """A file that is written from front to back, with the SHA-256 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def tell(self) -> int:
        return self.file.tell()

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        """Do nothing: DCP closes the file before it is synced, which `create_stream` does afterwards."""


class HashedFiles(FileSystem):
    """A file system for DCP that syncs each file it writes and keeps its SHA-256 by name."""

    def __init__(self) -> None:
        self.hashes: dict[str, str] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        """Open a file to write.

        Raises:
            OSError: the disk refused it. torch.save turns that into a RuntimeError that does not say why; here it is itself again.
        """
        with Path(path).open(mode) as file:
            hashed = HashedFile(file)  # pyright: ignore[reportArgumentType]
            try:
                yield hashed
            except RuntimeError as error:
                raise hashed.error or error from None
            file.flush()
            os.fsync(file.fileno())
        self.hashes[Path(path).name] = hashed.digest.hexdigest()

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """Rename a file, as DCP does with its index."""
        super().rename(path, new_path)
        self.hashes[Path(new_path).name] = self.hashes.pop(Path(path).name)

    def save(self, value: Any, path: Path) -> None:
        """Write a value by torch.save; equal values make equal files."""
        with self.create_stream(path, "wb") as file:
            torch.save(canonical(value), file)
