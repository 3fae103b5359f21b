"""A user's own map-style data set as the samples of a run."""

import hashlib
from collections.abc import Callable, Sequence
from operator import index
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64
from PIL import Image, ImageOps
from pydantic import PrivateAttr
from torch import Tensor
from torch.utils.data import Dataset

from jepa_pipeline.config.data import WINDOW_SHARDS, DataConfig, SourceConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.pixel_format import RGB8, PixelFormat
from jepa_pipeline.custom import HERE, Recorded, create
from jepa_pipeline.data.decode import fit, to_raster, to_rgb_image
from jepa_pipeline.data.image import to_rgb
from jepa_pipeline.data.manifest import Manifest, Shard, load_manifest
from jepa_pipeline.data.raster import Raster, as_array
from jepa_pipeline.data.sample import DecodeError
from jepa_pipeline.data.shards import Sample, SampleError, Shards
from jepa_pipeline.version import __version__

KEY = "data.train"
COMPARED = 16
"""Evenly spaced samples that tell whether a data set is the one that a run began with."""
ITEMS = (
    'a PIL image, a uint8 or uint16 array "H W" or "H W C", a tensor of these "H W" or "C H W", or one of them with its label as '
    '(image, label) or {"image": image, "label": label}'
)


class Item(NamedTuple):
    """An item of an own data set."""

    image: Any
    label: int | None


class CustomManifest(Manifest):
    """The description of an own data set: one shard, which is no file."""

    _hash: Callable[[], str] = PrivateAttr()

    def hash(self) -> str:
        """Return the number of samples, and a hash of some of them."""
        return self._hash()


class CustomSamples(Shards):
    """The items of a map-style data set, of images: one shard, in which all are shuffled together.

    Args:
        dataset: with `len(dataset)` and `dataset[n]`, a function of n alone.
        name: its class, for messages.
        form: of the images.

    Raises:
        UserError: it has no length, no items, or other ones than images.
    """

    def __init__(self, dataset: Any, name: str, form: PixelFormat = RGB8) -> None:  # pyright: ignore[reportMissingSuperCall]  # there are no files
        self.dataset, self.location, self.form, self.numbers = dataset, name, form, None
        try:
            samples = len(dataset)
            dataset.__getitem__  # noqa: B018
        except (TypeError, AttributeError, NotImplementedError):
            raise UserError(
                f"{KEY}: {name} is no map-style data set, whose samples have numbers: give it __len__ and __getitem__, so that "
                "order and resuming are exact"
            ) from None
        if samples < 1:
            raise UserError(f"{KEY}: {name} has no samples: len(dataset) is {samples}")
        shard = Shard("samples.tar", samples, bytes=1, sha256="0" * 64, index_sha256="0" * 64)
        self.manifest = CustomManifest.model_construct(
            created_by=__version__, kind="images", shards=(shard,), samples=samples, extensions=(), classes=None, made={}, stored=()
        )
        self.manifest._hash = self.fingerprint
        self.starts = np.array([0, samples])

    def read_classes(self) -> None:
        """Read the labels of all items, from `targets` and `classes` where the data set has these, as torchvision's do.

        Raises:
            UserError: an item has none, or all have the same.
        """
        given, samples = getattr(self.dataset, "targets", None), self.manifest.samples
        given = given if given is not None and len(given) == samples else None
        found = [to_label(given[n], self.describe(0, n)) if given is not None else self.item(n).label for n in range(samples)]
        if None in found:
            raise UserError(f"{self.describe(0, found.index(None))} has no label, but a probe needs one of each item: {ITEMS}")
        self.all_labels = np.array(found, np.int64)
        names = getattr(self.dataset, "classes", None) or range(int(self.all_labels.max()) + 1)
        if len({*found}) < 2 or not 0 <= self.all_labels.min() <= self.all_labels.max() < len(names):
            raise UserError(
                f"the labels of {self.location} are {sorted({*map(int, self.all_labels)})[:5]}, but a probe needs those of two "
                f"classes or more, numbered from 0{f' to {len(names) - 1}, as its classes' if len({*found}) > 1 else ''}"
            )
        self.manifest = self.manifest.model_copy(update={"classes": tuple(map(str, names))})

    def shard_labels(self, shard: int) -> Int64[np.ndarray, " samples"]:
        """Return the labels of all items, once `read_classes` has read them."""
        return self.all_labels if self.numbers is None else self.numbers[self.all_labels]

    def renumber(self, classes: Sequence[str]) -> None:
        """Give items the labels of other classes, among which are all of this data set."""
        own = self.manifest.classes or ()
        self.numbers = None if own == tuple(classes) else np.array([classes.index(name) for name in own], np.int64)

    def prefetch(self, shards: Sequence[int]) -> None:
        """Do nothing: there are no files."""

    def read(self, shard: int, member: int) -> Sample:
        """Return one item, whose media are its image.

        Raises:
            SampleError: its image cannot be read, or has another number of channels.
            UserError: it is no image.
        """
        item = self.item(member)
        try:
            image = to_image(item.image, self.describe(0, member), self.form)
        except DecodeError as error:
            raise self.sample_error(shard, str(member), str(error), error.cure) from error
        label = item.label if item.label is None or self.numbers is None else int(self.numbers[item.label])
        return Sample(str(member), image, label)

    def item(self, number: int) -> Item:
        """Return an item as image and label.

        Raises:
            SampleError: it is a file that is no image.
            UserError: it has another form.
        """
        try:
            item = self.dataset[number]
        except Image.UnidentifiedImageError as error:
            raise self.sample_error(0, str(number), str(error)) from error
        except Exception as error:
            error.add_note(f"raised by {self.describe(0, number)}")
            raise
        match item:
            case {"image": image, **others}:
                label = others.get("label")
            case (image,):
                label = None
            case (image, label):
                pass
            case dict() | tuple() | list():
                held = f"the keys {', '.join(map(str, item))}" if isinstance(item, dict) else f"{len(item)} values"
                raise UserError(
                    f"{self.describe(0, number)} is a {type(item).__name__} of {held}: a data set of a run returns {ITEMS}"
                )
            case _:
                image, label = item, None
        return Item(image, None if label is None else to_label(label, self.describe(0, number)))

    def entry(self, shard: int, member: int) -> tuple[str, int | None]:
        """Return the number of an item as its key, and its label."""
        return str(member), self.item(member).label

    def fingerprint(self) -> str:
        """Return the number of samples, and a hash of some of them, so that a run continues on the data that it began with.

        Raises:
            UserError: an item is no image, or not the same when it is read again.
        """
        samples, digest = self.manifest.samples, hashlib.sha256()
        for number in np.unique(np.linspace(0, samples - 1, min(COMPARED, samples)).astype(int)).tolist():
            digest.update(self.pixels(number))
        if self.pixels(0) != self.pixels(0):
            raise UserError(
                f"{self.describe(0, 0)} is another image each time it is read, so that no run could be resumed exactly: leave "
                "random changes to views.crops, which keys them by seed and sample"
            )
        return f"{samples} samples, {digest.hexdigest()[:12]}"

    def pixels(self, number: int) -> bytes:
        image = self.read(0, number).media
        assert not isinstance(image, bytes)
        array = as_array(image)
        return f"{array.shape}".encode() + array.tobytes()

    def describe(self, shard: int, member: int) -> str:
        """Return a name of an item that needs no reading."""
        return f"item {member} of {self.location}"

    def sample_error(self, shard: int, key: str, reason: str, cure: str | None = None) -> SampleError:
        """Return the error of an item that cannot be used."""
        return SampleError(f"item {key} of {self.location} cannot be used ({reason}): {cure or 'replace or remove it'}")

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "manifest": self.manifest.model_copy()}


def to_label(label: Any, name: str) -> int:
    """Return a label of an own item.

    Raises:
        UserError: it is no whole number.
    """
    try:
        return index(label)
    except TypeError:
        raise UserError(f"{name} has a label of type {type(label).__name__}: give the number of a class, or none") from None


def to_image(item: object, name: str, form: PixelFormat) -> Image.Image | Raster:
    """Return an own item in the form that a run takes, as `decode_image` does for the bytes of a file.

    Raises:
        DecodeError: it cannot be read, or has another number of channels or more bits.
        UserError: it is no image.
    """
    if isinstance(item, Image.Image):
        try:
            item.load()
            item = ImageOps.exif_transpose(item)
        except (OSError, SyntaxError) as error:  # Pillow's for damaged files
            raise DecodeError(str(error)) from error
        if form == RGB8:
            return to_rgb(item)
        item = np.asarray(item.convert("RGB") if item.mode in ("P", "PA") else item)
    if isinstance(item, Tensor):
        item = item.detach().cpu().numpy()
        item = item.transpose(1, 2, 0) if item.ndim == 3 else item
    if not isinstance(item, np.ndarray) or item.ndim not in (2, 3) or 0 in item.shape:
        shape = f" of shape {[*item.shape]}" if isinstance(item, np.ndarray) else ""
        raise UserError(f"{name} is of type {type(item).__name__}{shape}: a data set of a run returns {ITEMS}")
    if item.dtype not in (np.uint8, np.uint16):
        raise UserError(
            f"{name} has values of type {item.dtype}: give uint8 from 0 to 255, or uint16, since the run itself crops and "
            "normalizes (leave ToTensor and Normalize out)"
        )
    raster = to_raster(item if item.ndim == 3 else item[..., None])
    return to_rgb_image(raster) if form == RGB8 else fit(raster, form)


def open_custom(source: SourceConfig, form: PixelFormat = RGB8) -> CustomSamples:
    """Return the samples of a source that names a class of the user's own.

    Raises:
        UserError: it cannot be found or created, or is no data set of images.
    """
    path = source.class_path
    assert path is not None
    if source.init_args is not None:
        return CustomSamples(create(KEY, Recorded(path, source.init_args), Dataset), path, form)
    if path not in HERE:
        raise UserError(
            f"{KEY} is an object of {path}, which only the script or notebook has that made it: call pretrain(config, data=...) "
            f"there, or name the class with its arguments: data.train={{class_path: {path}, init_args: {{...}}}}"
        )
    return CustomSamples(HERE[path], path, form)


def open_source(source: SourceConfig, data: DataConfig) -> Shards:
    """Return the samples of a data set.

    Raises:
        UserError: there are none.
    """
    if source.class_path is not None:
        return open_custom(source, data.pixel_format)
    return Shards(source.path, 2 * WINDOW_SHARDS, data.cache, data.damage.max_megapixels * 1e6, data.pixel_format)


def source_manifest(source: SourceConfig, data: DataConfig) -> Manifest:
    """Return the manifest of a data set after checking that its shards are there; an own one has one too.

    Raises:
        UserError: it is incomplete.
    """
    return load_manifest(source.path) if source.class_path is None else open_custom(source, data.pixel_format).manifest


def require_shards(source: SourceConfig) -> str:
    """Return the folder or URL of the shards of a source.

    Raises:
        UserError: it is a data set of the user's own.
    """
    if source.class_path is not None:
        raise UserError(f"{KEY} is {source.class_path}, a data set of your own, but shards are needed here: name some")
    return source.path
