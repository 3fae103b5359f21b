"""The parts of a sample: the extensions of its members, the metadata of a video, and the error of bytes that do not decode."""

from pydantic import Field

from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.config.section import Section

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
VIDEO_EXTENSIONS = ("mp4", "mov", "m4v", "mkv", "webm", "avi", "gif")
MEDIA_EXTENSIONS: dict[DataKind, tuple[str, ...]] = {"images": IMAGE_EXTENSIONS, "videos": VIDEO_EXTENSIONS}
LABEL = "cls"
"""Extension of the member that holds a label, as in webdataset."""
MAX_MEDIA_BYTES = 1 << 30
"""Size of the largest image or video that is read."""


class DecodeError(ValueError):
    """Bytes that are no image or video that can be read; its text says why."""


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
