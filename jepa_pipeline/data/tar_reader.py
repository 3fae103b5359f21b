"""Reading of untrusted tar archives: once from front to end, hashed on the way, every header checked."""

import hashlib
import tarfile
from collections.abc import Iterator
from typing import IO, Protocol, cast, runtime_checkable

MAX_PRINTED = 80
"""Characters of a name that are printed."""
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""Magic numbers of compressed files."""
TRUNCATED = "it is truncated"
CHUNK = 1 << 16
"""Bytes of one read. tarfile copies the rest of a chunk at every header, so larger chunks are slower."""


@runtime_checkable
class Readable(Protocol):
    """An open file or download."""

    def read(self, size: int, /) -> bytes: ...


class Stream(Readable, Protocol):
    """The buffer through which tarfile reads a stream; its class is private (tarfile._Stream)."""

    buf: bytes
    pos: int

    def tell(self) -> int: ...


class ShardError(ValueError):
    """A tar that cannot be used; its text says why."""


class HashingReader:
    """A tar that is read once from front to end.

    Args:
        file: the tar.
        limit: bytes after which no more are read, since a server may send without an end; None: read all.

    Attributes:
        bytes, sha256, head: the number, the SHA-256 and the first of its bytes so far.
        joined: the name of the first member behind an end mark, where other programs stop.
        unread_from: where bytes behind an end mark begin that are no tar.
    """

    def __init__(self, file: Readable, limit: int | None = None) -> None:
        self.file, self.limit = file, limit
        self.bytes = 0
        self.sha256 = hashlib.sha256()
        self.head = b""
        self.joined: str | None = None
        self.unread_from: int | None = None

    def read(self, size: int) -> bytes:
        if self.limit is not None and self.bytes > self.limit:
            return b""
        data = self.file.read(size)
        self.head = self.head or data[:8]
        self.bytes += len(data)
        self.sha256.update(data)
        return data

    def read_rest(self) -> None:
        while self.read(1 << 20):
            pass


class Header(tarfile.TarInfo):
    """The header of a member. A damaged one is an error, where tarfile takes it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "Header":
        if not buf:
            raise ShardError("it ends without the end mark of a tar, so members may be missing")
        if len(buf) < tarfile.BLOCKSIZE:
            raise ShardError(TRUNCATED)
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not any(buf):
                raise  # zeros are the end mark of a tar
            raise ShardError("a header in it is damaged") from error


def iter_members(reader: HashingReader) -> Iterator[tuple[tarfile.TarInfo, Readable]]:
    """Yield every member of a tar, and a file positioned at its first byte of which the caller may read any part.

    Members behind an end mark are among them: cat joins tars so. All bytes have been read when this ends, even by an error, so
    that the reader has the hash of the whole file.

    Raises:
        ShardError: it is not a tar, compressed, truncated or damaged.
    """
    last = None
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r|", bufsize=CHUNK, tarinfo=Header) as archive:
            stream = cast("Stream", archive.fileobj)
            while (member := next_member(archive, stream, reader)) is not None:
                archive.members = []  # pyright: ignore[reportAttributeAccessIssue] # tarfile keeps every header otherwise
                last = member.name
                yield member, stream
                skip_bytes(stream, archive.offset - stream.tell())
    except (ShardError, tarfile.TarError, ValueError, OverflowError) as error:
        reason = str(error) if isinstance(error, ShardError) else f"it is not a whole tar ({error})"
        where = f" after its member {printable(last)}" if last else ""
        reader.read_rest()
        raise ShardError(describe_non_tar(reader) if last is None else reason + where) from error
    reader.read_rest()


def next_member(archive: tarfile.TarFile, stream: Stream, reader: HashingReader) -> tarfile.TarInfo | None:
    """Return the next member. Behind end marks too, and then have the reader note the first."""
    member, joined = archive.next(), False
    while member is None and skip_end_mark(archive, stream, reader):
        member, joined = archive.next(), True
    if member is not None and joined:
        reader.joined = reader.joined or member.name
    return member


def skip_end_mark(archive: tarfile.TarFile, stream: Stream, reader: HashingReader) -> bool:
    """Go on to a header behind an end mark, and return whether there is one. Have the reader note where bytes of no tar begin."""
    # What follows the mark in the same record is undefined by POSIX, and old programs left there what was in memory.
    record = -(-stream.tell() // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    while block := stream.read(tarfile.BLOCKSIZE):
        begin = stream.tell() - len(block)
        if block.strip(b"\0") and is_header(block):
            stream.buf, stream.pos, archive.offset = block + stream.buf, begin, begin
            return True
        if block.strip(b"\0") and begin >= record:
            reader.unread_from = begin
            return False
    return False


def is_header(block: bytes) -> bool:
    try:
        Header.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except (ShardError, tarfile.HeaderError):
        return False
    return True


def skip_bytes(stream: Readable, size: int) -> None:
    """Read the rest of a member. A header may claim any size, and tarfile's own seek would loop up to it."""
    if size < 0:
        raise ShardError("a header in it is damaged")
    while size > 0:
        chunk = stream.read(min(size, 1 << 20))
        if not chunk:
            raise ShardError(TRUNCATED)
        size -= len(chunk)


def describe_non_tar(reader: HashingReader) -> str:
    if not reader.head:
        return "it is empty"
    kind = next((name for magic, name in COMPRESSED.items() if reader.head.startswith(magic)), None)
    return f"it is compressed with {kind}: unpack it, as samples are read from the middle of a tar" if kind else "it is not a tar"


def printable(name: str) -> str:
    """Return a name from a shard on one line, escaped and shortened, so that it is safe to print."""
    text = name if name.isprintable() else ascii(name)[1:-1]
    return text if len(text) <= MAX_PRINTED else f"{text[:MAX_PRINTED]}..."
