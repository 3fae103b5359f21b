"""One shard that is open for reading: its file descriptor and its index."""

import os
import stat
from pathlib import Path

import numpy as np

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.data.index import OtherIndex, ShardIndex, index_path, load_index
from jepa_pipeline.data.manifest import Shard
from jepa_pipeline.data.sample import MAX_MEDIA_BYTES, MEDIA_EXTENSIONS

NO_MEDIA, NO_LABEL = (-1, -1), -(2**63)
"""Values in arrays for a sample without an image or video, and for one without a label."""


def describe_misfit(found: int, expected: int) -> str:
    """Return what is wrong with the size of a shard in bytes; "" if nothing is."""
    if found == expected:
        return ""
    what = "truncated" if found < expected else "another one"
    return f"its shard is {what}: it has {found:,} bytes, the manifest says {expected:,}"


def open_local(tar: Path) -> int:
    """Return the file descriptor of a tar on this machine. Raises ValueError if it is missing or no file."""
    try:
        fd = os.open(tar, os.O_RDONLY | os.O_NONBLOCK)  # of a pipe, which would wait for a writer; a file is read as always
    except FileNotFoundError as error:
        raise ValueError("its shard is missing") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError("its shard is not a file")
    if hasattr(os, "posix_fadvise"):  # all of it will be read: one sequential read is faster than one for each image
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
    return fd


def open_indexed(tar: Path, shard: Shard, fd: int, index: ShardIndex | None = None) -> "OpenShard":
    """Return an open shard with the given index, or else that beside `tar`.

    Raises:
        ValueError: the index is missing, damaged or not the one of the manifest.
    """
    try:
        opened = OpenShard(fd, load_index(tar, shard.index_sha256) if index is None else index)
    except OtherIndex as error:
        os.close(fd)
        raise ValueError(f"{index_path(tar)} is not the one that the manifest names") from error
    except (UserError, OverflowError) as error:
        os.close(fd)
        raise ValueError(f"{index_path(tar)} is missing or damaged") from error
    except OSError:
        os.close(fd)
        raise
    opened.misfit = describe_misfit(os.fstat(fd).st_size, shard.bytes)
    return opened


class OpenShard:
    """A shard's file descriptor and its index, in arrays because a process has dozens open. Closed when garbage collected.

    Attributes:
        misfit: why none of its samples may be used; "" if they may.
    """

    fd, misfit = -1, ""

    def __init__(self, fd: int, index: ShardIndex) -> None:
        self.keys = np.array([key.encode(errors="surrogatepass") for key in index.keys])
        ranges = [index.media_range(member) or NO_MEDIA for member in range(len(index.keys))]
        self.ranges = np.array(ranges, np.int64).reshape(-1, 2)
        self.labels = np.array([NO_LABEL if label is None else label for label in index.labels], np.int64)
        self.kind: DataKind = index.kind
        self.fd = fd  # last: after an error above the caller closes it

    def key(self, member: int) -> str:
        return self.keys[member].decode(errors="surrogatepass")

    def label(self, member: int) -> int | None:
        label = int(self.labels[member])
        return None if label == NO_LABEL else label

    def media(self, member: int) -> bytes:
        """Return the compressed image or video of a sample.

        Raises:
            ValueError: it has none, it is too large to be read, or the shard is truncated or another one.
        """
        if self.misfit:
            raise ValueError(self.misfit)
        offset, size = self.ranges[member].tolist()
        if (offset, size) == NO_MEDIA:
            raise ValueError(f"it has no {', '.join(MEDIA_EXTENSIONS[self.kind])}")
        if size > MAX_MEDIA_BYTES:  # a damaged index must not exhaust the memory
            raise ValueError(f"its index gives its {self.kind[:-1]} {size} bytes, more than the limit of {MAX_MEDIA_BYTES}")
        media = os.pread(self.fd, size, offset)
        if len(media) < size:
            raise ValueError("its shard is truncated")
        return media

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
