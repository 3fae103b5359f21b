"""An image or video file becomes a record: as it is, shrunk or encoded again."""

import re
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from jepa_pipeline.config.pixel_format import RGB8
from jepa_pipeline.data.channel_stats import compute_channel_stats
from jepa_pipeline.data.decode import inspect_image, is_array
from jepa_pipeline.data.file_faults import find_fault
from jepa_pipeline.data.manifest import Skipped
from jepa_pipeline.data.media_folder import MediaFile, to_utf8
from jepa_pipeline.data.raster import Raster, as_array
from jepa_pipeline.data.sample import MAX_MEDIA_BYTES, DecodeError, name_missing
from jepa_pipeline.data.video_writer import reencode_video
from jepa_pipeline.data.writer import Record, image_record, new_record, video_record

JPEG_QUALITY = 95
Shrunk = TypeVar("Shrunk", Image.Image, Raster)


class Reencoding(NamedTuple):
    """Settings of H.264: frames from one key frame to the next (gop), and x264's quality (crf), 0 is best."""

    gop: int = 12
    crf: int = 18


def record_key(index: int, path: Path) -> str:
    """Return a unique key: a running number, and the file's name without characters that a member cannot have."""
    return f"{index:08d}_{re.sub('[^A-Za-z0-9_-]+', '-', path.stem)[:48]}"


def prepare(root: Path, size: int | None, reencode: Reencoding | None, job: tuple[str, MediaFile]) -> Record | Skipped:
    """Return the record of a file, or the reason why it is skipped.

    Raises:
        UserError: a package is missing that reads it.
    """
    key, file = job
    name = to_utf8(str(file.path.relative_to(root)))
    if fault := find_fault(file.path):
        return Skipped(file=name, reason=fault.reason)
    if leads_elsewhere(file.path, root):
        reason = f"it is a link to another {file.kind[:-1]} of the folder"  # stored twice it could reach both parts
        return Skipped(file=name, reason=reason)
    try:
        if file.kind == "videos":
            return prepare_video(key, file, size, reencode)
        with name_missing(f"{root / name}"):
            return prepare_image(key, file, size)
    except (OSError, DecodeError) as error:
        return Skipped(file=name, reason=str(error))


def leads_elsewhere(path: Path, root: Path) -> bool:
    """Return whether a file, or a folder above it, is a link to another file of the folder."""
    place, target = root.resolve(), path.resolve()
    return target != place / path.relative_to(root) and target.is_relative_to(place) and target.exists()


def prepare_image(key: str, file: MediaFile, size: int | None) -> Record:
    data = file.path.read_bytes()
    image = inspect_image(data)
    if size is None or min(image.size) <= size:
        return new_record(key, data, image, file.label)
    if is_array(data):
        assert image.raster is not None
        return image_record(key, encode_array(shrink(image.raster, size)), file.label)
    assert image.rgb is not None
    extension, small = "jpg" if image.extension == "jpg" else "png", shrink(image.rgb, size)
    stats = compute_channel_stats(small)
    return Record(
        key,
        encode(small, extension),
        extension,
        file.label,
        stats,
        brightest=image.brightest,
        stored=(RGB8, stats),
        converted=image.stored != RGB8,
    )


def prepare_video(key: str, file: MediaFile, size: int | None, reencode: Reencoding | None) -> Record:
    check_size(file.path.stat().st_size)
    data, extension = file.path.read_bytes(), file.path.suffix[1:].lower()
    if reencode:
        data, extension = reencode_video(data, size=size, gop=reencode.gop, crf=reencode.crf), "mp4"
        check_size(len(data))
    return video_record(key, data, extension, file.label)


def check_size(size: int) -> None:
    if size > MAX_MEDIA_BYTES:
        raise DecodeError(f"it has {size} bytes, but a video has up to {MAX_MEDIA_BYTES}: cut it into shorter ones")


def shrink(image: Shrunk, size: int) -> Shrunk:
    short = min(image.size)
    width, height = (max(1, round(side * size / short)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def encode_array(image: Raster) -> bytes:
    """Return an image as an .npy file, "H W C": TIFF has no common form for all numbers of channels."""
    stream = BytesIO()
    np.save(stream, as_array(image))
    return stream.getvalue()


def encode(image: Image.Image, extension: str) -> bytes:
    stream = BytesIO()
    if extension == "jpg":
        image.save(stream, "JPEG", quality=JPEG_QUALITY)
    else:
        image.save(stream, "PNG")
    return stream.getvalue()
