"""What video files say of themselves, and where they are not to be believed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jepa_pipeline.data.decode import DecodeError

if TYPE_CHECKING:
    import av

FORMATS = "mov,mp4,matroska,webm,avi,gif,flv,asf,ogg,mpeg,mpegts,mpegvideo,h264,hevc"
"""FFmpeg's readers of what may hold a video. The others would read text and images, and lists that name other files."""

UNTRUSTED = {"gif"}
"""Formats that call frames key frames which need the frames before them."""


class Turn(NamedTuple):
    """How a frame is made upright: rows and columns exchanged, then the steps through its rows and its columns, 1 or -1."""

    sideways: bool
    down: int
    right: int


def is_hidden(packet: "av.Packet[Any]", codec: str) -> bool:
    """Whether a packet is a frame that is never shown: of VP8, by its header (RFC 6386, 9.1)."""
    return codec == "vp8" and not memoryview(packet)[0] >> 4 & 1


def key_places(packets: "Sequence[av.Packet[Any]]") -> list[int]:
    """The packets from which on all later frames can be decoded, by place and time ascending, and the first in any case."""
    places, latest = [0], packets[0].pts or 0
    for place, packet in enumerate(packets):
        if packet.is_keyframe and packet.pts is not None and packet.pts > latest:
            places.append(place)
            latest = packet.pts
    return places


def check_whole(data: bytes, stream: "av.VideoStream") -> None:
    """Refuse a file that is shorter than it says: FFmpeg would read it as a shorter video."""
    ends = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    cut_gif = data.startswith(b"GIF8") and not data.rstrip(b"\0").endswith(b"\0;")
    if max(ends, declared_size(data)) > len(data) or cut_gif:
        raise DecodeError("it is truncated")


def declared_size(data: bytes) -> int:
    """Bytes that a RIFF or Matroska file says it has, 0 if it does not say."""
    if data.startswith(b"RIFF"):
        return 8 + int.from_bytes(data[4:8], "little")
    if not data.startswith(b"\x1aE\xdf\xa3"):
        return 0
    header, size = ebml_size(data, 4)
    segment, size = ebml_size(data, header + size + 4)
    return segment + size


def ebml_size(data: bytes, place: int) -> tuple[int, int]:
    """Where an element of Matroska begins whose size is written at place, and that size, 0 if it is unknown (RFC 8794, 4 and 6)."""
    width = 9 - data[place].bit_length()
    most = (1 << 7 * width) - 1
    size = int.from_bytes(data[place : place + width]) & most
    return place + width, 0 if size == most else size


def turn_of(frame: "av.VideoFrame") -> Turn:
    """What the display matrix of a frame asks for: [a b u; c d v; x y w] takes (1, 0) to (a, b)."""
    tiny = frame.reformat(2, 2, "gray", threads=1)  # it keeps the matrix; what is asked for it stays until garbage is collected
    matrix = tiny.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Turn(False, 1, 1)
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    sideways = abs(b) > abs(a)
    right, down = (c, b) if sideways else (a, d)
    return Turn(sideways, -1 if down < 0 else 1, -1 if right < 0 else 1)
