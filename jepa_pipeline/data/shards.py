"""Reading single samples out of tar shards, by the index that lies beside each."""

import os
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.index import IMAGES, index_path, load_index
from jepa_pipeline.data.manifest import load_manifest


class Sample(NamedTuple):
    """What a shard holds of one sample: the image still compressed."""

    key: str
    image: bytes
    label: int | None


class SampleError(UserError):
    """A sample that cannot be used."""


class Shards:
    """The samples of a data set, readable in any order. Files are opened when first read, so it travels to workers cheaply.

    Raises:
        UserError: the folder is no whole data set.
    """

    def __init__(self, folder: Path, max_open: int = 64) -> None:
        self.folder = folder
        self.manifest = load_manifest(folder)
        self.max_open = max_open
        self._open: OrderedDict[int, OpenShard] = OrderedDict()

    @property
    def counts(self) -> list[int]:
        """Samples of each shard."""
        return [shard.samples for shard in self.manifest.shards]

    def read(self, shard: int, member: int) -> Sample:
        """One sample.

        Raises:
            SampleError: it has no image or its shard ends early; the sentence names both and the cure.
        """
        opened = self.open(shard)
        key = opened.index.keys[member]
        try:
            return Sample(key, opened.image(member), opened.index.labels[member])
        except ValueError as error:
            raise self.error(shard, key, str(error)) from error

    def open(self, shard: int) -> "OpenShard":
        """A shard's open file and index; the least recently read are closed beyond max_open."""
        if shard not in self._open:
            self._open[shard] = self._opened(shard)
            if len(self._open) > self.max_open:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard]

    def _opened(self, shard: int) -> "OpenShard":
        tar, samples = self.folder / self.manifest.shards[shard].file, self.manifest.shards[shard].samples
        opened = OpenShard(tar)
        if len(opened.index.keys) != samples:
            raise UserError(f"{index_path(tar)} lists {len(opened.index.keys)} samples, the manifest {samples}: copy both again")
        return opened

    def error(self, shard: int, key: str, reason: str) -> SampleError:
        """What to raise for a sample that cannot be used."""
        path = self.folder / self.manifest.shards[shard].file
        return SampleError(f"sample {key} of {path} cannot be used ({reason}): `jepa shards check {self.folder}` names all damage")

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}


class OpenShard:
    """A shard's file descriptor, closed when nobody holds this any more, and its index."""

    def __init__(self, tar: Path) -> None:
        self.fd = -1
        self.index = load_index(tar)
        self.fd = os.open(tar, os.O_RDONLY)

    def image(self, member: int) -> bytes:
        """The compressed image of a sample.

        Raises:
            ValueError: it has none, or the shard ends before it does.
        """
        place = self.index.image_place(member)
        if place is None:
            raise ValueError(f"it has no {', '.join(IMAGES)}")
        offset, size = place
        image = os.pread(self.fd, size, offset)
        if len(image) < size:
            raise ValueError("its shard is truncated")
        return image

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
