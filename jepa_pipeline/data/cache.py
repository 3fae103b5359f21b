"""The shards of URLs on this machine: each fetched once for all processes of the node, whole and verified."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

from filelock import BaseFileLock, FileLock, Timeout

from jepa_pipeline.config.data import CacheConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.index import ShardIndex, index_shard, load_index, save_index
from jepa_pipeline.data.manifest import Manifest, Shard
from jepa_pipeline.data.remote import fetch_file, without_secrets
from jepa_pipeline.data.samples import IMAGES, VIDEOS
from jepa_pipeline.data.tar import ShardError

TIDY_SHARE = 0.02
"""Of the limit; what one process fetches before it looks again whether all of them are above it."""


class Fetched(NamedTuple):
    """A shard that was fetched: its open file, which stays readable when the cache deletes it, and its index if it keeps those."""

    fd: int
    index: ShardIndex | None


class Cache:
    """A folder of shards named by their SHA-256, as XX/SHA256.tar.

    The hash is checked when a shard is fetched and not whenever it is opened; one whose size is wrong is fetched again. Under
    its final name a file is whole. Beyond the limit those that were not opened for longest are deleted. With `indexed`, the
    manifest of shards without index files beside it, the indexes are made here once, and kept beside the shards.
    """

    def __init__(self, config: CacheConfig, indexed: Manifest | None = None) -> None:
        self.folder = config.folder.expanduser() if config.folder else default_folder()
        self.limit = config.limit_gb * 1e9
        self.untidied = self.limit
        """Bytes this process fetched since it last looked at the whole folder, which takes a while where there is much."""
        self.indexed = indexed is not None
        self.media = VIDEOS if indexed and indexed.kind == "videos" else IMAGES
        self.classes = len(indexed.classes) if indexed and indexed.classes else None

    def tar(self, shard: Shard) -> Path:
        """Where a shard is kept."""
        return self.folder / shard.sha256[:2] / f"{shard.sha256}.tar"

    def _beside(self, shard: Shard) -> Path:
        """The path beside which its index is kept. Which samples a shard has depends on whether they need a class."""
        return self.tar(shard).with_stem(f"{shard.sha256}-{self.classes or 0}")

    def open(self, url: str, shard: Shard, wait: bool = True) -> Fetched:
        """A shard, from the cache or else from its URL. The caller closes the file.

        Raises:
            UserError: it could not be fetched, or the disk does not take it.
            filelock.Timeout: without `wait`, another process is fetching it.
        """
        try:
            if found := self._cached(shard):
                return found
            self.tar(shard).parent.mkdir(parents=True, exist_ok=True)
            with lock(self.tar(shard), wait):
                return self._cached(shard) or self._fetch(url, shard)
        except Timeout:
            raise
        except OSError as error:
            raise UserError(
                f"{without_secrets(url)} cannot be kept in {self.folder} ({error.strerror or error}): see that there is room and "
                "that you may write there, or set data.cache.folder to a larger disk and data.cache.limit_gb to what it holds; "
                "then run the same command again"
            ) from error

    def _cached(self, shard: Shard) -> Fetched | None:
        """A shard if it is here and whole; from now on it counts as used."""
        tar = self.tar(shard)
        try:
            fd = os.open(tar, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            if os.fstat(fd).st_size == shard.bytes:
                index = load_index(self._beside(shard)) if self.indexed else None
                with suppress(PermissionError):  # it is another user's
                    os.utime(fd)
                return Fetched(fd, index)
        except UserError:
            pass  # no index, or a damaged one: both files come anew
        os.close(fd)
        return None

    def _fetch(self, url: str, shard: Shard) -> Fetched:
        """Fetch a shard whose lock this process holds. It is opened before it gets its name, so that nobody deletes it first."""
        tar = self.tar(shard)
        for left in tar.parent.glob(f"{shard.sha256}*.partial"):  # by a process that was killed: no other one has the lock
            left.unlink(missing_ok=True)
        partial = tar.with_name(f"{shard.sha256}.{token_hex(4)}.partial")
        try:
            fetch_file(url, partial, shard.bytes, shard.sha256)
            index = self._index(partial, shard) if self.indexed else None
            with partial.open("rb") as file:
                os.fsync(file.fileno())
                partial.rename(tar)
                fd = os.dup(file.fileno())
        finally:
            partial.unlink(missing_ok=True)
        self.untidied += shard.bytes
        if self.untidied > TIDY_SHARE * self.limit:
            self.untidied = 0
            self._tidy(keep=tar)
        return Fetched(fd, index)

    def _index(self, tar: Path, shard: Shard) -> ShardIndex:
        """Make and keep the index of a shard that was fetched to `tar`. If that is no tar it is empty, as no manifest expects."""
        try:
            with tar.open("rb", buffering=1 << 20) as file:
                index = index_shard(file, shard.file, self.classes, media=self.media).index
        except ShardError:
            index = ShardIndex(keys=[], members={}, labels=[])
        index = index if self.classes else index.unlabeled()
        save_index(index, self._beside(shard))
        return index

    def _tidy(self, keep: Path) -> None:
        """Delete what killed processes left half written and, beyond the limit, the shards that were not used for longest."""
        with FileLock(self.folder / "tidy.lock"):
            for partial in self.folder.glob("??/*.partial"):
                delete(partial.with_name(f"{partial.name[:64]}.tar"), partial)
            tars = sorted(self._sizes(), reverse=True)
            excess = sum(size for _, size, _ in tars) - self.limit
            while tars and excess > 0:
                _, size, tar = tars.pop()
                if tar != keep:
                    delete(tar, tar, *tar.parent.glob(f"{tar.stem}-*"))
                    excess -= size

    def _sizes(self) -> Iterator[tuple[int, int, Path]]:
        """When it was last used, size and path of every shard that is here."""
        for tar in self.folder.glob("??/*.tar"):
            with suppress(FileNotFoundError):  # a user may clear the folder while it is in use
                stat = tar.stat()
                yield stat.st_mtime_ns, stat.st_size, tar


def lock(tar: Path, wait: bool) -> BaseFileLock:
    """Held by the one process that writes or deletes the files of a shard."""
    return FileLock(tar.with_suffix(".lock"), blocking=wait)


def delete(tar: Path, *paths: Path) -> None:
    """Delete files of a shard, unless a process is writing them."""
    with suppress(Timeout), lock(tar, wait=False):
        for path in paths:
            path.unlink(missing_ok=True)


def default_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jepa_pipeline" / "shards"
