"""The images or videos of a folder, read as they are, in order of their names."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from jepa_pipeline.config.pixel_format import RGB8
from jepa_pipeline.data.class_names import compose, number_classes
from jepa_pipeline.data.data_parts import are_pieces, find_parts
from jepa_pipeline.data.file_faults import find_fault, read_state, refuse_disk
from jepa_pipeline.data.manifest import Manifest
from jepa_pipeline.data.media_folder import Labeling, list_media, to_utf8
from jepa_pipeline.data.sample import MAX_MEDIA_BYTES, MAX_PIXELS
from jepa_pipeline.data.shards import Sample, SampleError, Shards
from jepa_pipeline.redaction import redact
from jepa_pipeline.version import __version__


class MediaFiles(Shards):
    """The files of a folder as the samples of a data set: each is a shard of its own, and its key its path in the folder.

    First-level folders are its classes if there are several, no file is beside them and they are no parts of a data set.

    Raises:
        UserError: the folder holds no images or videos, or both.
    """

    def __init__(self, folder: Path) -> None:  # pyright: ignore[reportMissingSuperCall]  # there is no manifest
        listing = list_media(folder, Labeling(without=True))
        self.location, self.max_pixels, self.form = str(folder), MAX_PIXELS, RGB8
        self.paths = [file.path for file in listing.files]
        self.keys = name_rows([path.relative_to(folder).as_posix() for path in self.paths])
        self.unusable = {number: fault for number, path in enumerate(self.paths) if (fault := find_fault(path))}
        self.labels, classes = label_by_folder(self.keys, str(folder))
        kind = listing.files[0].kind
        self.manifest = Manifest.model_construct(
            created_by=__version__, kind=kind, shards=(), samples=len(self.paths), extensions=(), classes=classes, made={}
        )
        self.notes = listing.notes[1:]  # the first says that labels are not wanted

    def locate(self, indices: Sequence[int]) -> list[tuple[int, int]]:
        """Return shard and member of samples by their index in the data set."""
        return [(index, 0) for index in indices]

    def read(self, shard: int, member: int) -> Sample:
        """Return one file.

        Raises:
            SampleError: it is too large, or was no file that can be opened when the command began.
            UserError: it could not be read for a reason that may pass.
        """
        path = self.paths[shard]
        if fault := self.unusable.get(shard):
            raise self.sample_error(shard, self.keys[shard], *fault)
        try:
            if (size := path.stat().st_size) > MAX_MEDIA_BYTES:
                raise self.sample_error(shard, self.keys[shard], f"it has {size:,} bytes, more than {MAX_MEDIA_BYTES:,}")
            return Sample(self.keys[shard], path.read_bytes(), self.labels[shard])
        except PermissionError as error:
            raise self.sample_error(shard, self.keys[shard], f"{error.strerror}", "allow reading it") from error
        except OSError as error:
            raise refuse_disk(path, error) from error

    def entry(self, shard: int, member: int) -> tuple[str, int | None]:
        """Return key and label of a file."""
        return self.keys[shard], self.labels[shard]

    def describe(self, shard: int, member: int) -> str:
        """Return the path of a file."""
        return redact(to_utf8(str(self.paths[shard])))

    def sample_error(self, shard: int, key: str, reason: str, cure: str | None = None) -> SampleError:
        """Return the error of a file that cannot be used."""
        return SampleError(f"{self.describe(shard, 0)} cannot be used ({reason}){f': {cure}' if cure else ''}")

    def fingerprint(self) -> str:
        """Return a hash of the names, sizes and times of all files, which differs where one has changed."""
        digest = sha256()
        for path, key in zip(self.paths, self.keys, strict=True):
            digest.update(f"{key}\0{read_state(path)}\n".encode())
        return digest.hexdigest()[:12]


def name_rows(names: Sequence[str]) -> list[str]:
    """Return the names of files as text, all of them different: if bytes of one are escaped, a backslash of another is too."""
    texts = [to_utf8(name) for name in names]
    return texts if texts == [*names] else [to_utf8(name.replace("\\", r"\\")) for name in names]


def label_by_folder(keys: Sequence[str], folder: str) -> tuple[list[int | None], tuple[str, ...] | None]:
    """Return the label of each file and the names of the classes; None where first-level folders are none."""
    tops = [compose(key.partition("/")[0]) for key in keys if "/" in key]
    names = sorted({*tops})
    if len(tops) < len(keys) or len(names) < 2 or find_parts(names) or are_pieces(names):
        return [None] * len(keys), None
    classes, numbers = number_classes(names, None, folder)
    return [numbers[top] for top in tops], classes.names
