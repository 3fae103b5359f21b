"""The shards of URLs on this machine: each fetched and verified once for all processes of the node."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from filelock import BaseFileLock, FileLock, Timeout

from jepa_pipeline.config.data import CacheConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.index import ShardIndex, load_index, save_index
from jepa_pipeline.data.manifest import Shard
from jepa_pipeline.data.remote import download
from jepa_pipeline.files import PARTIAL, atomic_path, glob_tolerant, sweep
from jepa_pipeline.redaction import redact

EVICTION_SHARE = 0.02
"""Share of the limit that one process fetches before it checks again whether the cache is above it."""


class CachedShard(NamedTuple):
    """The open file of a shard, which stays readable when the cache deletes it, and its index if the cache keeps those."""

    fd: int
    index: ShardIndex | None


class Cache:
    """A folder of shards named by their SHA-256, as XX/SHA256.tar.

    The hash is checked when a shard is fetched, not when it is opened; a shard of another size is fetched again. A file
    under its final name is complete. Beyond the limit, the least recently opened shards are deleted.

    Args:
        config: folder and limit.
        build_index: reads a tar whose URL has no index; the index is then made once and kept beside the tar.
        index_tag: part of the name of such an index, for what it depends on besides the tar.
    """

    def __init__(
        self, config: CacheConfig, build_index: Callable[[Path, Shard], ShardIndex] | None = None, index_tag: str = "0"
    ) -> None:
        self.folder = config.folder.expanduser() if config.folder else default_folder()
        self.limit = config.limit_gb * 1e9
        self.build_index = build_index
        self.index_tag = index_tag
        self.unchecked_bytes = self.limit
        """Bytes this process fetched since it last listed the folder, which takes a while if it is large."""

    def tar_path(self, shard: Shard) -> Path:
        return self.folder / shard.sha256[:2] / f"{shard.sha256}.tar"

    def _index_base(self, shard: Shard) -> Path:
        return self.tar_path(shard).with_stem(f"{shard.sha256}-{self.index_tag}")

    def open(self, url: str, shard: Shard, wait: bool = True) -> CachedShard:
        """Open a shard, after fetching it from its URL if it is not in the cache. The caller closes the file.

        Raises:
            UserError: it could not be fetched or written.
            filelock.Timeout: without `wait`, if another process is fetching it.
        """
        try:
            if cached := self._open_cached(shard):
                return cached
            self.tar_path(shard).parent.mkdir(parents=True, exist_ok=True)
            with lock(self.tar_path(shard), wait):
                return self._open_cached(shard) or self._fetch(url, shard)
        except Timeout:  # an OSError too
            raise
        except OSError as error:
            raise UserError(
                f"{redact(url)} cannot be written to {self.folder} ({error.strerror or error}): make room there and check "
                "that you may write to it, or set data.cache.folder to a larger disk and data.cache.limit_gb to its size; "
                "then run the same command again"
            ) from error

    def prefetch(self, request: tuple[str, Shard]) -> None:
        """Fetch a shard, given as its URL and entry of the manifest, unless it is cached or another process is fetching it."""
        url, shard = request
        os.close(self.open(url, shard, wait=False).fd)

    def _open_cached(self, shard: Shard) -> CachedShard | None:
        """Open a shard if it is complete, and mark it as used."""
        try:
            fd = os.open(self.tar_path(shard), os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            if os.fstat(fd).st_size == shard.bytes:
                index = load_index(self._index_base(shard)) if self.build_index else None
                with suppress(PermissionError):  # another user fetched it
                    os.utime(fd)
                return CachedShard(fd, index)
        except UserError:
            pass  # the index is missing or damaged: fetch both files again
        os.close(fd)
        return None

    def _fetch(self, url: str, shard: Shard) -> CachedShard:
        """Fetch a shard whose lock this process holds."""
        tar = self.tar_path(shard)
        sweep(tar.parent)
        self._keep_limit(tar, shard.bytes)
        with atomic_path(tar, sync=True) as partial:
            download(url, partial, shard.bytes, shard.sha256)
            index = self.build_index(partial, shard) if self.build_index else None
            if index:
                save_index(index, self._index_base(shard))
        fd = os.open(tar, os.O_RDONLY)  # nobody evicts it before its lock is released
        self.unchecked_bytes += shard.bytes
        if self._keep_limit(tar):
            self.unchecked_bytes = 0
        return CachedShard(fd, index)

    def _keep_limit(self, keep: Path, coming: int = 0) -> bool:
        """Make room for bytes that will come if the cache may be above its limit; return whether it was looked at."""
        due = self.unchecked_bytes + coming > EVICTION_SHARE * self.limit
        if due:
            self._evict(keep, coming)
        return due

    def _evict(self, keep: Path, coming: int) -> None:
        """Delete unfinished files of killed processes and, beyond the limit, the least recently used shards."""
        with FileLock(self.folder / "tidy.lock"):
            for folder in self.folder.glob("??"):
                sweep(folder)
            tars = sorted(self._list_files("??/*.tar"), reverse=True)
            fetched = (*tars, *self._list_files(f"??/*{PARTIAL}/*"))  # by other processes now
            excess = sum(size for _, size, _ in fetched) + coming - self.limit
            while tars and excess > 0:
                _, size, tar = tars.pop()
                if tar != keep:
                    delete(tar, tar, *tar.parent.glob(f"{tar.stem}-*"))
                    excess -= size

    def _list_files(self, pattern: str) -> Iterator[tuple[int, int, Path]]:
        """Yield the time of last use, the size and the path of every shard, or unfinished one."""
        for path in glob_tolerant(self.folder, pattern):
            with suppress(FileNotFoundError):  # a user may clear the folder while it is in use
                stat = path.stat()
                yield stat.st_mtime_ns, stat.st_size, path


def lock(tar: Path, wait: bool) -> BaseFileLock:
    """Return the lock of the one process that writes or deletes the files of a shard."""
    return FileLock(tar.with_suffix(".lock"), blocking=wait)


def delete(tar: Path, *paths: Path) -> None:
    """Delete files of a shard unless a process is writing them."""
    with suppress(Timeout), lock(tar, wait=False):
        for path in paths:
            path.unlink(missing_ok=True)


def default_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jepa_pipeline" / "shards"
