"""The parts of a sample: the extensions of its members, the metadata of a video, and the error of bytes that do not decode."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import Field

from jepa_pipeline.config.data import MAX_MEGAPIXELS
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.config.section import Section

ARRAY = "npy"
"""Extension of arrays, which are images only where there are no other images or videos: they may be anything, such as features."""
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "tif", "tiff", ARRAY)
VIDEO_EXTENSIONS = ("mp4", "mov", "m4v", "mkv", "webm", "avi", "gif")
MEDIA_EXTENSIONS: dict[DataKind, tuple[str, ...]] = {"images": IMAGE_EXTENSIONS, "videos": VIDEO_EXTENSIONS}
LABEL = "cls"
"""Extension of the member that holds a label, as in webdataset."""
MAX_MEDIA_BYTES = 1 << 30
"""Size of the largest image or video that is read."""
MAX_PIXELS = MAX_MEGAPIXELS * 1e6
"""Pixels that decoding one sample may take: a small file may declare any number of them."""
MAX_VIDEO_PIXELS = 1e12
"""The same where all frames of a video are decoded: four hours of 1080p."""


class DecodeError(ValueError):
    """Bytes that are no image or video that can be read; its text says why. cure: None if they are damaged."""

    cure: str | None = None


class TooLarge(DecodeError):
    """An image or video that takes more pixels to be decoded than a sample may."""

    def __init__(self, what: str, limit: float) -> None:
        super().__init__(f"{what}, more than the limit of {limit / 1e6:,.6g} megapixels")
        self.cure = (
            "raise data.damage.max_megapixels, or encode it again, videos with more key frames (`jepa shards build --reencode`)"
        )


class MissingPackage(UserError):
    """A package is not installed that reads an image; the text lacks the image's name, which name_missing adds."""


@contextmanager
def name_missing(sample: str) -> Iterator[None]:
    """Name the sample for which a package is missing.

    Raises:
        UserError: one is.
    """
    try:
        yield
    except MissingPackage as error:
        raise UserError(f"{sample}: {error}") from None


class VideoMetadata(Section):
    """The properties of a video that are known without decoding it."""

    duration_s: float = Field(description="From the start of the first frame to the end of the last, in seconds.")
    fps: float = Field(description="Mean frame rate, in frames per second.")
    width: int = Field(description="Of an upright frame, in pixels.")
    height: int = Field(description="Of an upright frame, in pixels.")
    frames: int = Field(description="Number of frames.")


def check_media_size(size: int, kind: DataKind) -> None:
    """Raise ValueError if an image or video has no bytes or too many to be read."""
    if not 0 < size <= MAX_MEDIA_BYTES:
        name, article = ("image", "an") if kind == "images" else ("video", "a")
        raise ValueError(f"its {name} has {size} bytes, but {article} {name} has 1 to {MAX_MEDIA_BYTES}")
