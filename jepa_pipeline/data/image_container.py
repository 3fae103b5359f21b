"""Image files without the metadata that does not decide about pixels, and the orientation in it.

Pillow parses all metadata on the way to the pixels, and refuses whole images for an error in it.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"
EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
"""First bytes of JPEG segments that hold metadata."""
APP_SEGMENTS = range(0xE0, 0xF0)
COMMENT, START_OF_SCAN, END_OF_IMAGE = 0xFE, 0xDA, 0xD9
WITHOUT_LENGTH = {0x00, 0x01, *range(0xD0, 0xD9)}
"""Second bytes of JPEG markers that stand alone: an escaped 255, TEM, restarts, the start of an image."""
COLOR_SEGMENTS = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}
"""Application segments by which libjpeg chooses the color space: how each begins, and its least size."""

PALETTE, GRAY_SAMPLES = 3, {0: 2, 2: 6}
"""Color type of PNG files with a palette; bytes of a transparent color (tRNS) by the other color types that may have one."""
WEBP_PIXELS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
"""Chunks of WebP files that decide about the pixels."""
WEBP_METADATA = 0x2C
"""Flags of VP8X that announce a color profile, EXIF and XMP."""
MAX_METADATA = 1 << 24
"""Bytes up to which compressed metadata is unpacked."""

ORIENTATION_TAG = 0x0112
NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
"""The struct format of whole numbers, by TIFF's type."""
RATIONALS = {5: "II", 10: "ii"}
"""The same of fractions, which are stored elsewhere."""


class Stripped(NamedTuple):
    """An image file without metadata.

    Attributes:
        data: the file.
        exif, xmp: metadata that may hold the orientation.
        bits: per channel, if the format has more than one depth.
        significant_bits: the channels' number of bits before they were stored as `bits`, if the file says so.
    """

    data: bytes
    exif: bytes = b""
    xmp: bytes = b""
    bits: int = 8
    significant_bits: tuple[int, ...] = ()


def strip_metadata(data: bytes) -> Stripped:
    """Return a file without the metadata that Pillow would parse. What is damaged elsewhere, and other formats, are left alone."""
    if data.startswith(PNG):
        return strip_png(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return strip_webp(data)
    return strip_jpeg(data) if data.startswith(JPEG) else Stripped(data)


def strip_jpeg(data: bytes) -> Stripped:
    """Leave out application segments and comments before the first scan, save those that decide about the color space."""
    kept, start, exif, xmp = [], 0, b"", b""
    for marker, begin, end in jpeg_segments(data):
        content = data[begin + 4 : end]
        prefix, least = COLOR_SEGMENTS.get(marker, (b"", 0))
        about_color = least > 0 and len(content) >= least and content.startswith(prefix)
        if about_color or marker not in (*APP_SEGMENTS, COMMENT):
            continue
        kept.append(data[start:begin])
        start = end
        if marker == 0xE1 and content.startswith(EXIF):
            exif += content.removeprefix(EXIF) if exif else content  # long metadata is split into several segments
        elif marker == 0xE1 and content.startswith(XMP):
            xmp = content.removeprefix(XMP)
    return Stripped(b"".join([*kept, data[start:]]) if kept else data, exif, xmp)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker, the start and the end of each segment before the first scan, as libjpeg finds them."""
    position = len(JPEG)
    while (position := data.find(b"\xff", position)) >= 0 and position + 4 <= len(data):
        marker = data[position + 1]
        if marker in (START_OF_SCAN, END_OF_IMAGE):
            return
        if marker == 0xFF or marker in WITHOUT_LENGTH:
            position += 1 if marker == 0xFF else 2
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4])
        if end > len(data):
            return
        yield marker, position, end
        position = end


def strip_png(data: bytes) -> Stripped:
    """Leave out all chunks but those that decide about the pixels, and a broken tRNS, without which there are pixels too."""
    kept, exif, xmp, raw, significant = [data[: len(PNG)]], b"", b"", b"", b""
    header = data[len(PNG) + 8 :][:13].ljust(13, b"\0")
    position, has_pixels = len(PNG), False
    for name, begin, position in png_chunks(data):
        content = data[begin + 8 : position - 4]
        whole = name in (b"tRNS", b"sBIT") and zlib.crc32(name + content) == int.from_bytes(data[position - 4 : position])
        if name[:1].isupper() or (name == b"tRNS" and whole and fits(content, color_type=header[9])):
            kept.append(data[begin:position])
            has_pixels = has_pixels or name == b"IDAT"
        elif name == b"eXIf":
            exif = content
        elif name == b"sBIT" and whole:
            significant = content
        elif name in (b"tEXt", b"zTXt", b"iTXt"):
            key, text = read_text(name, content)
            xmp = text if key == b"XML:com.adobe.xmp" else xmp
            raw = text if key == b"Raw profile type exif" else raw
    rest = data[position:]
    if not (has_pixels and rest[4:5].islower()):  # else it is metadata that was cut off behind the pixels
        kept.append(rest)
    return Stripped(b"".join(kept), exif or read_raw_profile(raw), xmp, max(8, header[8]), tuple(significant))


def strip_webp(data: bytes) -> Stripped:
    """Leave out all chunks but those that decide about the pixels, so that a file that was cut behind the pixels is whole.

    Of an animation that was cut nobody knows whether frames are missing, unless the cut is inside of metadata.
    """
    end = 8 + int.from_bytes(data[4:8], "little")
    kept, position, exif, xmp, names = list[bytes](), 12, b"", b"", list[bytes]()
    while position + 8 <= min(end, len(data)):
        name, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        content, position = data[position + 8 : position + 8 + size], position + 8 + size + size % 2
        names.append(name)
        if name in WEBP_PIXELS and len(content) < size:
            return Stripped(data)
        if name == b"VP8X" and content:
            content = bytes([content[0] & ~WEBP_METADATA]) + content[1:]
        if name in WEBP_PIXELS:
            kept.append(name + size.to_bytes(4, "little") + content + b"\0" * (size % 2))
        exif, xmp = content if name == b"EXIF" else exif, content if name == b"XMP " else xmp
    inside_metadata = bool(names) and names[-1] not in WEBP_PIXELS
    if not {b"VP8 ", b"VP8L"} & {*names} and not (b"ANMF" in names and (end <= len(data) or inside_metadata)):
        return Stripped(data, exif, xmp)
    body = b"WEBP" + b"".join(kept)
    return Stripped(b"RIFF" + len(body).to_bytes(4, "little") + body, exif, xmp)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, the start and the end of each complete chunk up to the end mark."""
    begin, name = len(PNG), b""
    while begin + 12 <= len(data) and name != b"IEND":
        name = data[begin + 4 : begin + 8]
        end = begin + 12 + int.from_bytes(data[begin : begin + 4])
        if end > len(data) or not name.isalpha():
            return
        yield name, begin, end
        begin = end


def fits(transparency: bytes, color_type: int) -> bool:
    """Return whether a tRNS chunk has the size that its color type asks for; libpng ignores others."""
    if color_type == PALETTE:
        return 0 < len(transparency) <= 256
    return len(transparency) >= GRAY_SAMPLES.get(color_type, 1 << 32)


def read_text(name: bytes, content: bytes) -> tuple[bytes, bytes]:
    """Return the key and the text of a text chunk; no text if it is broken."""
    key, _, text = content.partition(b"\0")
    packed = name == b"zTXt"
    if name == b"zTXt":
        text = text[1:]
    elif name == b"iTXt":
        packed = text[:1] == b"\1"
        text = text[2:].split(b"\0", 2)[-1]
    if packed:
        try:
            text = zlib.decompressobj().decompress(text, MAX_METADATA)
        except zlib.error:
            text = b""
    return key, text


def read_raw_profile(text: bytes) -> bytes:
    """Return the EXIF data in the hex digits of ImageMagick's text chunk, nothing if they are none."""
    try:
        return bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:]))
    except ValueError:
        return b""


def find_orientation(exif: bytes, xmp: bytes) -> int:
    """Return the orientation that EXIF or else XMP data gives, 1 (upright) where it cannot be read."""
    orientation = read_exif_orientation(re.sub(b"^(Exif\0\0){1,2}", b"", exif))
    if orientation is None:
        orientation = read_xmp_orientation(xmp)
    return 1 if orientation is None else orientation


def read_xmp_orientation(xmp: bytes) -> int | None:
    """Return the orientation in XMP data: an attribute or element in TIFF's namespace, with any prefix that is declared for it."""
    prefixes = re.findall(rb"""xmlns:([\w.-]+)\s*=\s*["']http://ns\.adobe\.com/tiff/1\.0/["']""", xmp) or [b"tiff"]
    names = b"|".join(map(re.escape, prefixes))
    match = re.search(rb"""[<\s](?:%s):Orientation(?:\s*=\s*["']|(?:\s[^<>]*)?>)\s*([0-9])\s*["'<]""" % names, xmp)
    return int(match[1]) if match else None


def read_exif_orientation(tiff: bytes) -> int | None:
    """Return the orientation in EXIF data. No other entry is looked at, so that none can be in its way."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    try:
        if order is None or struct.unpack_from(order + "H", tiff, 2)[0] != 42:
            return None
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, start)
        for place in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(order + "HHI", tiff, place)
            if tag == ORIENTATION_TAG and count and kind in NUMBERS:
                return struct.unpack_from(order + NUMBERS[kind], tiff, place + 8)[0]
            if tag == ORIENTATION_TAG and count and kind in RATIONALS:
                (elsewhere,) = struct.unpack_from(order + "I", tiff, place + 8)
                numerator, denominator = struct.unpack_from(order + RATIONALS[kind], tiff, elsewhere)
                return numerator // denominator if denominator and numerator % denominator == 0 else None
    except struct.error:  # it ends before
        pass
    return None
