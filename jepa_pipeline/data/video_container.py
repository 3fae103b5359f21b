"""Facts about video files that FFmpeg does not report, or reports wrongly: hidden and key frames, decoder settings, truncation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import av
    from av.packet import PktSideDataT

FORMATS = "mov,mp4,matroska,webm,avi,gif,flv,asf,ogg,mpeg,mpegts,mpegvideo,h264,hevc"
"""FFmpeg's demuxers of video files. Others read text, images, and playlists that name other files: not from untrusted data."""

WITHOUT_KEY_FRAMES = {"gif"}
"""Formats whose frames are flagged as key frames but need the frames before them."""

WITHOUT_DISPLAY_TIMES = {"avi", "asf"}
"""Formats in which frames have at most the time at which they are decoded."""


SETTINGS: "tuple[PktSideDataT, ...]" = ("palette", "new_extradata", "param_change")
"""Side data of a packet that holds for the later packets too, until there is another."""


MOVIE_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"}
"""With which an mp4 or mov file begins."""


def repeat_settings(packets: "Sequence[av.Packet[Any]]", extradata: bytes | None) -> None:
    """Give each key frame the decoder's settings that came before it, so that decoding from there on gives the same pixels.

    A demuxer attaches settings, such as a palette, only to the packet where they begin.

    Args:
        packets: of a stream in their order.
        extradata: the settings at the start.
    """
    kinds: list[PktSideDataT] = [kind for kind in SETTINGS if any(packet.has_sidedata(kind) for packet in packets)]
    current: dict[PktSideDataT, Any] = {}
    if "new_extradata" in kinds and extradata:
        current["new_extradata"] = create_side_data("new_extradata", extradata)
    for number, packet in enumerate(packets):
        for kind in kinds:
            if packet.has_sidedata(kind):
                current[kind] = packet.get_sidedata(kind)
            elif kind in current and (packet.is_keyframe or number == 0):
                packet.set_sidedata(current[kind])


def create_side_data(kind: "PktSideDataT", data: bytes) -> Any:
    from av.packet import PacketSideData, packet_sidedata_type_from_literal

    side_data: Any = PacketSideData(packet_sidedata_type_from_literal(kind), len(data))  # pyright: ignore[reportCallIssue]
    side_data.update(data)
    return side_data


def is_hidden(packet: "av.Packet[Any]", codec: str) -> bool:
    """Return whether a packet is a frame that is never shown; VP8 says so in its header (RFC 6386, 9.1)."""
    return codec == "vp8" and not memoryview(packet)[0] >> 4 & 1


def key_packets(packets: "Sequence[av.Packet[Any]]") -> list[int]:
    """Return the indices of packets from which all later frames can be decoded: the first, and key frames ascending in time."""
    indices, latest = [0], packets[0].pts or 0
    for index, packet in enumerate(packets):
        if packet.is_keyframe and packet.pts is not None and packet.pts > latest:
            indices.append(index)
            latest = packet.pts
    return indices


def is_truncated(data: bytes, stream: "av.VideoStream") -> bool:
    """Return whether a file is shorter than it declares; FFmpeg would read it as a shorter video."""
    ends = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    cut_gif = data.startswith(b"GIF8") and not data.rstrip(b"\0").endswith(b"\0;")
    return max(ends, declared_size(data)) > len(data) or cut_gif


def count_movies(data: bytes) -> int:
    """Return the number of movies in an mp4 or mov file. FFmpeg reads the first; cat leaves several (ISO/IEC 14496-12, 4.2)."""
    movies = position = 0
    while position + 8 <= len(data):
        size, kind = int.from_bytes(data[position : position + 4]), data[position + 4 : position + 8]
        if not position and kind not in MOVIE_BOXES:
            break
        movies += kind == b"moov"
        size = int.from_bytes(data[position + 8 : position + 16]) if size == 1 else size
        if size < 8:  # 0: to the end of the file
            break
        position += size
    return movies


def declared_size(data: bytes) -> int:
    """Return the size in bytes that a RIFF or Matroska file declares, 0 if it does not."""
    if data.startswith(b"RIFF"):
        return 8 + int.from_bytes(data[4:8], "little")
    if not data.startswith(b"\x1aE\xdf\xa3"):
        return 0
    header, size = ebml_size(data, 4)
    segment, size = ebml_size(data, header + size + 4)
    return segment + size


def ebml_size(data: bytes, offset: int) -> tuple[int, int]:
    """Return the start and the size, 0 if unknown, of a Matroska element whose size is at `offset` (RFC 8794, 4 and 6)."""
    width = 9 - data[offset].bit_length()
    unknown = (1 << 7 * width) - 1
    size = int.from_bytes(data[offset : offset + width]) & unknown
    return offset + width, 0 if size == unknown else size
