"""Tar archives as they come: read once from front to end, hashed on the way, and believed in nothing."""

import errno
import hashlib
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol, cast, runtime_checkable

from jepa_pipeline.data.remote import filesystem, is_remote, join

LONGEST = 80
"""Characters of a name that are printed."""
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of compressed files."""
TRUNCATED = "it is truncated"
CHUNK = 1 << 16
"""Bytes of one read; tarfile copies what is left of a chunk with every header, so more is slower."""


@runtime_checkable
class Readable(Protocol):
    """An open file or download."""

    def read(self, size: int, /) -> bytes: ...


class Stream(Readable, Protocol):
    """What tarfile reads a stream through."""

    def tell(self) -> int: ...


class ShardError(ValueError):
    """A tar that cannot be used; its text says why."""


def open_tar(location: str, file: str) -> AbstractContextManager[Readable]:
    """A shard of a folder or URL, opened for one reading from front to end.

    Raises:
        UserError: the URL is of a kind that is not read.
        OSError: a local one is not there; a client library's own error if it cannot be reached.
    """
    if not is_remote(location):
        path = Path(location) / file
        if path.is_fifo():
            raise OSError(errno.EINVAL, "it is a pipe")  # opening it would wait for a writer
        return path.open("rb", buffering=1 << 20)
    url = join(location, file)
    streamed = {"block_size": 0} if url.startswith(("http", "hf")) else {}  # one answer, no ranges
    return filesystem(url).open(url, "rb", **streamed)


class Passing:
    """A file that is read once from front to end: the count and the SHA-256 of what has passed, and its first bytes."""

    def __init__(self, file: Readable) -> None:
        self.file = file
        self.bytes = 0
        self.sha256 = hashlib.sha256()
        self.head = b""

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.head = self.head or data[:8]
        self.bytes += len(data)
        self.sha256.update(data)
        return data

    def finish(self) -> None:
        """Let the rest pass."""
        while self.read(1 << 20):
            pass


class Header(tarfile.TarInfo):
    """The header of a member. A damaged one is an error and not, as it is to tarfile, the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "Header":
        if not buf:
            raise ShardError("it ends without the mark that ends a tar, so members may be lacking")
        if len(buf) < tarfile.BLOCKSIZE:
            raise ShardError(TRUNCATED)
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not any(buf):
                raise  # the mark that ends a tar
            raise ShardError("a header in it is damaged") from error


def tar_members(passing: Passing) -> Iterator[tuple[tarfile.TarInfo, Readable]]:
    """Every member of a tar with a file that stands at its first byte; what the caller does not read of it is passed over.

    All bytes have passed when this ends, be it by an error.

    Raises:
        ShardError: it is no tar, compressed, truncated or damaged.
    """
    after = None
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", passing), mode="r|", bufsize=CHUNK, tarinfo=Header) as archive:
            stream = cast("Stream", archive.fileobj)
            while (member := archive.next()) is not None:
                archive.members = []  # pyright: ignore[reportAttributeAccessIssue] # else it keeps every header
                after = member.name
                yield member, stream
                skip(stream, archive.offset - stream.tell())
    except (ShardError, tarfile.TarError, ValueError, OverflowError) as error:
        reason = str(error) if isinstance(error, ShardError) else f"it is not a whole tar ({error})"
        where = f" after its member {shown(after)}" if after else ""
        passing.finish()
        raise ShardError(not_a_tar(passing) if after is None else reason + where) from error
    passing.finish()


def skip(stream: Readable, size: int) -> None:
    """Pass over the rest of a member. A header may claim any size, and tarfile's own seek would count to it."""
    if size < 0:
        raise ShardError("a header in it is damaged")
    while size > 0:
        chunk = stream.read(min(size, 1 << 20))
        if not chunk:
            raise ShardError(TRUNCATED)
        size -= len(chunk)


def not_a_tar(passing: Passing) -> str:
    """Why not even the first header could be read."""
    if not passing.head:
        return "it is empty"
    kind = next((name for magic, name in COMPRESSED.items() if passing.head.startswith(magic)), None)
    return f"it is compressed with {kind}: unpack it, as samples are read from the middle of a tar" if kind else "it is not a tar"


def shown(name: str) -> str:
    """A name from a shard as it is safe to print, on one line and not too long."""
    text = name if name.isprintable() else ascii(name)[1:-1]
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
