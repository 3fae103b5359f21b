"""Reading single samples out of tar shards, by the index that lies beside each."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jepa_pipeline.config.data import CacheConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.cache import Cache
from jepa_pipeline.data.index import ShardIndex, index_path, load_index
from jepa_pipeline.data.manifest import read_manifest, tar_location
from jepa_pipeline.data.prefetch import Ahead
from jepa_pipeline.data.remote import is_remote, join, without_secrets
from jepa_pipeline.data.samples import MAX_MEDIA, VIDEOS

NOWHERE, NO_LABEL = (-1, -1), -(2**63)
"""What stands in arrays for a sample without an image or video, and for one without a label."""


class Sample(NamedTuple):
    """What a shard holds of one sample: the image or video still compressed."""

    key: str
    media: bytes
    label: int | None


class SampleError(UserError):
    """A sample that cannot be used."""


class Shards:
    """The samples of a data set, readable in any order. Local shards are read where they lie, those of a URL are fetched into
    the cache of this machine. Files are opened when first read, so it travels to workers cheaply.

    Raises:
        UserError: there is no manifest in the folder or at the URL, or it cannot be read.
    """

    def __init__(self, location: str | Path, max_open: int = 64, cache: CacheConfig | None = None) -> None:
        self.location = str(location)
        self.manifest = read_manifest(self.location)
        self.starts = np.cumsum([0, *self.counts])
        """Number in the data set of the first sample of each shard, and how many there are."""
        self.max_open = max_open
        self.tars = tar_location(self.location, self.manifest)
        indexed = self.manifest if is_remote(self.location) else None
        self.cache = Cache(cache or CacheConfig(), indexed) if is_remote(self.tars) else None
        self._ahead = Ahead(self.cache) if self.cache else None
        self._open: OrderedDict[int, OpenShard] = OrderedDict()

    @property
    def counts(self) -> list[int]:
        """Samples of each shard."""
        return [shard.samples for shard in self.manifest.shards]

    def locate(self, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """Shard and member of samples by their numbers in the data set."""
        which = np.searchsorted(self.starts, numbers, side="right") - 1
        return list(zip(which.tolist(), (numbers - self.starts[which]).tolist(), strict=True))

    def fetch_ahead(self, shards: Sequence[int]) -> None:
        """Start to fetch these shards in the background, first ones first; asking again is cheap. Nothing to do for local ones.

        It drops what was asked for before and has not begun. An error is met again, and raised, where the shard is read.
        """
        if self._ahead:
            self._ahead.ask([(self._place(shard), self.manifest.shards[shard]) for shard in shards])

    def read(self, shard: int, member: int) -> Sample:
        """One sample.

        Raises:
            SampleError: it has no image or video, its shard ends early or is gone, or that has no whole index; the sentence names
                the sample, the shard and the cure.
            UserError: its shard could not be fetched, or the system does not read it for a reason that may pass: a run that
                skipped it would not be the run it should be.
        """
        key = f"number {member}"
        try:
            opened = self.open(shard)
            key = opened.key(member)
            return Sample(key, opened.media(member), opened.label(member))
        except ValueError as error:
            raise self.error(shard, key, str(error)) from error
        except OSError as error:
            place = without_secrets(self._place(shard))
            raise UserError(f"{place} cannot be read ({error.strerror}): see to that, then run the same command again") from error

    def open(self, shard: int) -> "OpenShard":
        """A shard's open file and index; the least recently read are closed beyond max_open.

        Raises:
            ValueError: it is gone, or has no index that agrees with the manifest.
            UserError: it could not be fetched.
        """
        if shard not in self._open:
            self._open[shard] = self._opened(shard)
            if len(self._open) > self.max_open:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard]

    def _opened(self, number: int) -> "OpenShard":
        shard = self.manifest.shards[number]
        beside = Path(self.location) / shard.file
        if self.cache:
            opened = open_shard(beside, *self.cache.open(self._place(number), shard))
        else:
            opened = open_shard(beside, open_local(Path(self._place(number))))
        if len(opened.keys) != shard.samples:
            raise ValueError(f"its index lists {len(opened.keys)} samples, the manifest {shard.samples}")
        return opened

    def _place(self, shard: int) -> str:
        """Path or URL of a shard."""
        file = self.manifest.shards[shard].file
        return join(self.tars, file) if self.cache else str(Path(self.tars) / file)

    def error(self, shard: int, key: str, reason: str, cure: str | None = None) -> SampleError:
        """What to raise for a sample that cannot be used; without a cure that is known it is damaged, and a check is the way."""
        place, data = map(without_secrets, (self._place(shard), self.location))
        way = cure or f"`jepa shards check {data}` names all damage"
        return SampleError(f"sample {key} of {place} cannot be used ({reason}): {way}")

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}


def open_local(tar: Path) -> int:
    """File descriptor of a tar on this machine; ValueError if it is not there."""
    try:
        fd = os.open(tar, os.O_RDONLY)
    except FileNotFoundError as error:
        raise ValueError("its shard is not there") from error
    if hasattr(os, "posix_fadvise"):  # all of it will be read, and in one sweep that is quicker than image by image
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
    return fd


def open_shard(tar: Path, fd: int, index: ShardIndex | None = None) -> "OpenShard":
    """A shard whose index lies beside `tar` unless it is given; ValueError if that is missing or damaged."""
    try:
        return OpenShard(fd, load_index(tar) if index is None else index)
    except (UserError, OverflowError) as error:
        os.close(fd)
        raise ValueError(f"{index_path(tar)} is missing or damaged") from error
    except OSError:
        os.close(fd)
        raise


class OpenShard:
    """A shard's file descriptor, closed when nobody holds this any more, and its index in arrays: a process has dozens open."""

    fd = -1

    def __init__(self, fd: int, index: ShardIndex) -> None:
        self.keys = np.array([key.encode(errors="surrogatepass") for key in index.keys])
        places = [index.media_place(member) or NOWHERE for member in range(len(index.keys))]
        self.places = np.array(places, np.int64).reshape(-1, 2)
        self.labels = np.array([NO_LABEL if label is None else label for label in index.labels], np.int64)
        self.extensions = index.media
        self.fd = fd  # last: whoever meets an error above still owns it

    def key(self, member: int) -> str:
        return self.keys[member].decode(errors="surrogatepass")

    def label(self, member: int) -> int | None:
        label = int(self.labels[member])
        return None if label == NO_LABEL else label

    def media(self, member: int) -> bytes:
        """The compressed image or video of a sample.

        Raises:
            ValueError: it has none, its index gives it more bytes than are read, or the shard ends before it does.
        """
        offset, size = self.places[member].tolist()
        if (offset, size) == NOWHERE:
            raise ValueError(f"it has no {', '.join(self.extensions)}")
        if size > MAX_MEDIA:
            kind, article = ("video", "a") if self.extensions == VIDEOS else ("image", "an")
            raise ValueError(f"its index gives its {kind} {size} bytes, but {article} {kind} has up to {MAX_MEDIA}")
        media = os.pread(self.fd, size, offset)
        if len(media) < size:
            raise ValueError("its shard is truncated")
        return media

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
