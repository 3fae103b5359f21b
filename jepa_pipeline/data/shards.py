"""Reading of single samples from tar shards, by the index of each."""

import json
from collections import OrderedDict
from collections.abc import Sequence
from copy import copy
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from PIL import Image

from jepa_pipeline.config.data import CacheConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.pixel_format import RGB8, PixelFormat
from jepa_pipeline.data.cache import Cache
from jepa_pipeline.data.index import ShardIndex
from jepa_pipeline.data.indexing import index_shard
from jepa_pipeline.data.manifest import Manifest, Shard, locate_tars, read_manifest
from jepa_pipeline.data.open_shard import NO_LABEL, OpenShard, open_indexed, open_local
from jepa_pipeline.data.prefetch import Prefetcher
from jepa_pipeline.data.raster import Raster
from jepa_pipeline.data.remote import is_remote, join_url
from jepa_pipeline.data.sample import MAX_PIXELS, MEDIA_EXTENSIONS
from jepa_pipeline.data.tar_reader import ShardError
from jepa_pipeline.redaction import redact


class Sample(NamedTuple):
    """A sample as stored: the image or video is still compressed, but for those of a user's own data set."""

    key: str
    media: bytes | Image.Image | Raster
    label: int | None


class SampleError(UserError):
    """A sample that cannot be used."""


class Shards:
    """The samples of a data set, readable in any order.

    Local shards are read in place, those of a URL through the cache of this machine. Files are opened when first read, so
    it can be pickled for workers cheaply.

    Args:
        location: folder or URL with a manifest.json.
        max_open: shards kept open.
        cache: where shards of a URL are kept.
        max_pixels: that decoding a sample may take.
        form: in which images are decoded.

    Raises:
        UserError: there is no manifest, or it cannot be read.
    """

    def __init__(
        self,
        location: str | Path,
        max_open: int = 64,
        cache: CacheConfig | None = None,
        max_pixels: float = MAX_PIXELS,
        form: PixelFormat = RGB8,
    ) -> None:
        self.location = str(location)
        self.max_pixels = max_pixels
        self.form = form
        self.manifest = read_manifest(self.location)
        self.starts = np.cumsum([0, *self.counts])
        """Index in the data set of the first sample of each shard, then the number of samples."""
        self.max_open = max_open
        self.tars = locate_tars(self.location, self.manifest)
        self.cache = self._build_cache(cache or CacheConfig()) if is_remote(self.tars) else None
        self._prefetcher = Prefetcher(self.cache.prefetch) if self.cache else None
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self.numbers: Int64[np.ndarray, " classes"] | None = None
        """Numbers that replace the labels 0, 1, ..., if any do."""

    def in_form(self, form: PixelFormat) -> "Shards":
        """Return the same samples with images in another form."""
        other = copy(self)
        other.form = form
        return other

    def renumber(self, classes: Sequence[str]) -> None:
        """Give samples the labels of other classes, among which are all of this data set."""
        own = self.manifest.classes or ()
        self._open.clear()
        self.numbers = None if own == tuple(classes) else np.array([classes.index(name) for name in own], np.int64)

    def _build_cache(self, config: CacheConfig) -> Cache:
        if not is_remote(self.location):  # the indexes are beside the manifest
            return Cache(config)
        if self.manifest.label_list:
            raise UserError(
                f"{redact(self.location)} has labels of a list, which are in its index files only: copy its manifest and "
                "index files into a folder and name that"
            )
        # Which samples a shard has depends on whether they need a class, and which bytes they are on the member that counts.
        names, member = self.manifest.classes or (), self.manifest.member
        named = (
            "" if all(map(str.isdigit, names)) else f"-{sha256(json.dumps(names).encode()).hexdigest()[:8]}"
        )  # labels may be names
        tag = f"{len(names)}{named}{f'-{member}' if member else ''}"
        return Cache(config, partial(index_fetched, manifest=self.manifest), tag)

    @property
    def counts(self) -> list[int]:
        """Samples of each shard."""
        return [shard.samples for shard in self.manifest.shards]

    def locate(self, indices: Sequence[int]) -> list[tuple[int, int]]:
        """Return shard and member of samples by their index in the data set."""
        shards = np.searchsorted(self.starts, indices, side="right") - 1
        return list(zip(shards.tolist(), (indices - self.starts[shards]).tolist(), strict=True))

    def prefetch(self, shards: Sequence[int]) -> None:
        """Start to fetch these shards in the background, in this order, instead of earlier requests. Does nothing for local ones.

        An error is dropped here and raised by `read`.
        """
        if self._prefetcher:
            self._prefetcher.request([(self._path(shard), self.manifest.shards[shard]) for shard in shards])

    def read(self, shard: int, member: int) -> Sample:
        """Return one sample.

        Raises:
            SampleError: it has no image or video, or its shard or index is missing, truncated or damaged.
            UserError: its shard could not be fetched or read for a reason that may pass. Skipping the sample then would
                make the run depend on chance.
        """
        key = f"number {member}"
        try:
            opened = self.open(shard)
            key = opened.key(member)
            return Sample(key, opened.media(member), opened.label(member))
        except ValueError as error:
            raise self.sample_error(shard, key, str(error)) from error
        except OSError as error:
            path = redact(self._path(shard))
            raise UserError(f"{path} cannot be read ({error.strerror}): fix that, then run the same command again") from error

    def entry(self, shard: int, member: int) -> tuple[str, int | None]:
        """Return key and label of a sample from the index; its number and None if there is no index."""
        try:
            opened = self.open(shard)
        except ValueError:
            return f"number {member} of {self.manifest.shards[shard].file}", None
        return opened.key(member), opened.label(member)

    def shard_labels(self, shard: int) -> Int64[np.ndarray, " samples"]:
        """Return the labels of a shard; NO_LABEL for a sample without one."""
        return self.open(shard).labels

    def fingerprint(self) -> str:
        """Return a hash that differs where a sample has changed."""
        return self.manifest.hash()

    def open(self, shard: int) -> "OpenShard":
        """Return a shard's open file and index; beyond max_open the least recently read shard is closed.

        Raises:
            ValueError: it is missing, or has no index that agrees with the manifest.
            UserError: it could not be fetched.
        """
        if shard not in self._open:
            self._open[shard] = self._open_shard(shard)
            if len(self._open) > self.max_open:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard]

    def _open_shard(self, number: int) -> "OpenShard":
        shard = self.manifest.shards[number]
        beside = Path(self.location) / shard.file
        if self.cache:
            opened = open_indexed(beside, shard, *self.cache.open(self._path(number), shard))
        else:
            opened = open_indexed(beside, shard, open_local(Path(self._path(number))))
        if len(opened.keys) != shard.samples:
            raise ValueError(f"its index lists {len(opened.keys)} samples, the manifest {shard.samples}")
        if self.numbers is not None:
            labeled = opened.labels != NO_LABEL
            if wrong := opened.labels[labeled & ((opened.labels < 0) | (opened.labels >= len(self.numbers)))].tolist():
                raise ValueError(f"its index has the label {wrong[0]}, but the manifest has {len(self.numbers)} classes")
            opened.labels[labeled] = self.numbers[opened.labels[labeled]]
        return opened

    def _path(self, shard: int) -> str:
        file = self.manifest.shards[shard].file
        return join_url(self.tars, file) if self.cache else str(Path(self.tars) / file)

    def describe(self, shard: int, member: int) -> str:
        """Return a name of a sample that needs no reading."""
        return f"sample number {member} of {redact(self._path(shard))}"

    def sample_error(self, shard: int, key: str, reason: str, cure: str | None = None) -> SampleError:
        """Return the error of a sample that cannot be used. Without a cure it is taken to be damaged."""
        path, location = map(redact, (self._path(shard), self.location))
        cure = cure or f"`jepa shards check {location}` lists all damage"
        return SampleError(f"sample {key} of {path} cannot be used ({reason}): {cure}")

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}  # file descriptors do not survive pickling


def index_fetched(tar: Path, shard: Shard, manifest: Manifest) -> ShardIndex:
    """Build the index of a fetched shard. It is empty, as no manifest expects, if that is not a tar of samples."""
    try:
        with tar.open("rb", buffering=1 << 20) as file:
            media = MEDIA_EXTENSIONS[manifest.kind]
            index = index_shard(file, shard.file, manifest.classes, media=media, member=manifest.member).index
    except ShardError:
        index = ShardIndex(keys=[], members={}, labels=[])
    return index if manifest.classes else index.without_labels()
