"""The orientation of a video's frames, from the container, from EXIF or from messages of the encoder."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import av

INDEPENDENT = {"mjpeg", "png", "apng", "tiff", "webp"}
"""Codecs of images, which may have EXIF."""

DISPLAY_ORIENTATION = 47
"""Type of the message (SEI) of H.264 and HEVC that holds an orientation."""

EXIF = 31
"""AV_FRAME_DATA_EXIF of FFmpeg 8."""


class Orientation(NamedTuple):
    """The orientation of a frame: transposed or not, then read with steps of 1 or -1 through rows and columns."""

    transposed: bool
    row_step: int
    column_step: int


UPRIGHT = Orientation(False, 1, 1)


def has_own_orientation(packet: "av.Packet[Any]", codec: str, extradata: bytes) -> bool:
    """Return whether a frame may have an orientation besides that of the container."""
    if codec not in ("h264", "hevc"):
        return codec in INDEPENDENT
    return DISPLAY_ORIENTATION in message_types(bytes(packet), codec, extradata)


def message_types(data: bytes, codec: str, extradata: bytes) -> Iterator[int]:
    """Yield the types of the messages (SEI) in a packet of H.264 or HEVC (ITU-T H.264, 7.3.2.3)."""
    header, message = (1, 6) if codec == "h264" else (2, 39)
    for unit in iter_units(data, codec, extradata):
        if (unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63) != message:
            continue
        payload, position = unit[header:].replace(b"\0\0\3", b"\0\0"), 0
        while len(payload) - position > 2:
            numbers = []  # type and size, each of which ends with the first byte below 255
            for _ in range(2):
                start = position
                while payload[position : position + 1] == b"\xff":
                    position += 1
                numbers.append(255 * (position - start) + int.from_bytes(payload[position : position + 1]))
                position += 1
            yield numbers[0]
            position += numbers[1]


def iter_units(data: bytes, codec: str, extradata: bytes) -> Iterator[bytes]:
    """Yield the units of a packet, which follow their size, or a start code if the extradata states no width of sizes."""
    place = 4 if codec == "h264" else 21
    if extradata[:1] != b"\1" or len(extradata) <= place or data.startswith(b"\0\0\0\1"):
        yield from (unit for unit in data.split(b"\0\0\1") if unit.strip(b"\0"))
        return
    width, position = (extradata[place] & 3) + 1, 0
    while position + width < len(data):
        start = position + width
        position = start + int.from_bytes(data[position:start])
        if start < position:
            yield data[start:position]


def read_orientation(frame: "av.VideoFrame") -> Orientation:
    """Return the orientation in the display matrix of a frame: [a b u; c d v; x y w] takes (1, 0) to (a, b)."""
    name_side_data()
    # PyAV keeps a frame whose side data was read until garbage collection, so read it from a tiny copy.
    tiny = frame.reformat(2, 2, "gray", threads=1)
    matrix = tiny.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    transposed = abs(b) > abs(a)
    right, down = (c, b) if transposed else (a, d)
    return Orientation(transposed, -1 if down < 0 else 1, -1 if right < 0 else 1)


def name_side_data() -> None:
    """Let PyAV read the side data of frames with EXIF, as cameras write in Motion JPEG: it has no name for that kind and raises."""
    from av.sidedata.sidedata import Type

    if EXIF not in Type._value2member_map_:
        unnamed = object.__new__(Type)
        unnamed._name_, unnamed._value_ = "EXIF", EXIF
        Type._value2member_map_[EXIF] = unnamed
