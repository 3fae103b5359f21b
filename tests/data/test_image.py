"""Every kind of image file becomes the RGB image a person would see, whatever its metadata."""

import struct
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps

from jepa_pipeline.data.decode import decode_image
from jepa_pipeline.data.image import decode
from jepa_pipeline.data.sample import DecodeError, TooLarge

RAMP = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))


def stored(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def pixels(data: bytes) -> np.ndarray:
    image = decode_image(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_grey_is_repeated_in_three_channels():
    assert (pixels(stored(Image.fromarray(RAMP))) == RAMP[:, :, None]).all()
    assert (pixels(stored(Image.fromarray(RAMP > 100))) == np.where(RAMP > 100, 255, 0)[:, :, None]).all()


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    deep = RAMP.astype(np.uint16) * 257
    assert (pixels(stored(Image.fromarray(deep))) == RAMP[:, :, None]).all()


def png(rows: np.ndarray, bits: int = 16, *chunks: bytes) -> bytes:
    """A PNG file of gray or RGB rows, perhaps with alpha, with chunks before its pixels."""
    color = {2: 4, 3: 2, 4: 6}[rows.shape[2]] if rows.ndim == 3 else 0
    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], bits, color, 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2" if bits == 16 else np.uint8).tobytes() for row in rows)
    whole = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


DEEP = np.random.default_rng(2).integers(0, 1 << 16, (12, 20), np.uint16)
COLORS = np.random.default_rng(3).integers(0, 1 << 16, (12, 20, 3), np.uint16)


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
@pytest.mark.parametrize("values", [DEEP, COLORS])
def test_fewer_significant_bits_than_stored_are_scaled_by_their_number(bits: int, values: np.ndarray):
    few = values >> (16 - bits)
    told = chunk(b"sBIT", bytes([bits] * (values.ndim * 2 - 3)))
    expected = np.round(few / ((1 << bits) - 1) * 255).astype(int)
    seen = pixels(png(few, 16, told)).astype(int)
    assert np.abs(seen - (expected if few.ndim == 3 else expected[..., None])).max() == 0
    assert decode(png(few, 16, told)).brightest == expected.max()
    assert decode(png(few)).brightest == pixels(png(few)).max() < 64 or bits == 14


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
@pytest.mark.parametrize("dark", [1, 40])
@pytest.mark.parametrize("values", [DEEP, COLORS])
def test_significant_bits_that_are_scaled_already_are_left_alone(bits: int, dark: int, values: np.ndarray):
    """As PNG wants it: shifted up, repeated in the lower bits, or scaled and rounded; also where all values are small."""
    few = (values >> (16 - bits)).astype(np.int64) // dark
    told = chunk(b"sBIT", bytes([bits] * (values.ndim * 2 - 3)))
    shifted = few << (16 - bits)
    for scaled in (shifted, shifted | few >> (2 * bits - 16), np.round(few * 65535 / ((1 << bits) - 1)).astype(np.int64)):
        assert (pixels(png(scaled, 16, told)) == pixels(png(scaled))).all()


@pytest.mark.parametrize("bits", [0, 17, 255])
@pytest.mark.parametrize("values", [DEEP, COLORS])
def test_impossible_significant_bits_are_ignored(bits: int, values: np.ndarray):
    told = chunk(b"sBIT", bytes([bits] * (values.ndim * 2 - 3)))
    assert (pixels(png(values, 16, told)) == pixels(png(values))).all()


@pytest.mark.parametrize("colors", [1, 3])
def test_a_transparent_color_of_sixteen_bits_is_compared_as_a_whole(colors: int):
    """Two colors with the same upper bytes, of which one is transparent."""
    values = np.array([[[0x1234] * 3, [0x12FF] * 3, [0, 0, 0]]], np.uint16)[..., :colors]
    data = png(values.squeeze(-1) if colors == 1 else values, 16, chunk(b"tRNS", struct.pack(">H", 0x1234) * colors))
    assert pixels(data)[0, :, 0].tolist() == [255, 19 if colors == 1 else 18, 0], "gray is rounded, colors keep their upper byte"


@pytest.mark.parametrize("colors", [1, 3])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_alpha_of_sixteen_bits_is_scaled_as_the_colors_are(colors: int, bits: int):
    full = (1 << bits) - 1
    values = np.array([[[full] * colors + [full], [0] * colors + [full // 2], [5] * colors + [0]]])
    seen = pixels(png(values, 16, chunk(b"sBIT", bytes([bits] * (colors + 1)))))[0]
    assert (seen == seen[:, :1]).all() and seen[[0, 2], 0].tolist() == [255, 255] and 127 <= seen[1, 0] <= 128


@pytest.mark.parametrize("colors", [1, 3])
def test_interlaced_channels_of_sixteen_bits_are_in_their_places(colors: int):
    values = np.random.default_rng(5).integers(0, 1 << 12, (2, 2, colors + 1), np.uint16)
    values[..., -1] = (1 << 12) - 1
    told = chunk(b"sBIT", bytes([12] * (colors + 1)))
    whole = png(values, 16, told)
    header = bytearray(whole[16:29])
    header[12] = 1
    passes = [values[0, :1], values[0, 1:], values[1]]  # the first, the sixth and the last pass of an image of 2x2 pixels
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in passes)
    chunks = [chunk(b"IHDR", bytes(header)), told, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    assert (pixels(whole[:8] + b"".join(chunks)) == pixels(whole)).all()
    assert (pixels(whole) == np.round(values[..., :-1] / 4095 * 255)).all()


def test_eight_bit_images_have_no_brightest_level():
    assert decode(png(RAMP, 8)).brightest is None
    assert decode(stored(Image.fromarray(RAMP), "JPEG")).brightest is None
    assert decode(png(np.full((4, 4), 65535))).brightest == 255
    assert decode(stored(Image.fromarray(RAMP.astype(np.uint16)))).brightest == 1


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_composited_on_white(mode: str):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert pixels(stored(image.convert(mode))).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_half_transparent_is_half_white():
    assert pixels(stored(Image.new("RGBA", (1, 1), (0, 0, 0, 128)))).tolist() == [[[127, 127, 127]]]


def test_palette_with_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert pixels(stored(image)).tolist() == [[[255, 0, 0], [0, 0, 255]]]
    assert pixels(stored(image, transparency=1)).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_a_transparent_color_without_alpha_channel():
    image = Image.new("RGB", (2, 1), (9, 9, 9))
    image.putpixel((1, 0), (1, 2, 3))
    assert pixels(stored(image, transparency=(1, 2, 3))).tolist() == [[[9, 9, 9], [255, 255, 255]]]


def test_cmyk_jpeg():
    red = pixels(stored(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    assert np.abs(red.astype(int) - [255, 0, 0]).max() < 10


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(form: str):
    upright = Image.new("RGB", (16, 8), "white")
    upright.paste("black", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned: to be rotated by 90 degrees clockwise
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    seen = pixels(stored(turned, form, exif=exif.tobytes()))
    assert seen.shape == (8, 16, 3)
    assert seen[:, :6].mean() < 20 < 235 < seen[:, 10:].mean()


def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
    return struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")


def exif_of(*entries: bytes, more: bytes = b"") -> bytes:
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4) + more


TURNED = entry(0x0112, 3, 1, b"\6")
ELSEWHERE = struct.pack("<I", 8 + 2 + 24 + 4)
"""Where the data behind an EXIF block of two entries begins."""
BROKEN_EXIF = {
    "a negative rational in an unsigned tag": exif_of(TURNED, entry(0x011A, 10, 1, ELSEWHERE), more=struct.pack("<ii", -72, 1)),
    "a resolution stored as bytes": exif_of(TURNED, entry(0x011A, 1, 1, b"\x48")),
    "a resolution without a divisor": exif_of(TURNED, entry(0x011A, 5, 1, ELSEWHERE), more=bytes(8)),
    "an entry before it that leads out": exif_of(entry(0x010F, 2, 2000, b"\xff\xff\xff\x7f"), TURNED),
    "an entry after it that leads out": exif_of(TURNED, entry(0x8825, 4, 1, b"\xff\xff\xff\x7f")),
    "an unknown kind of entry": exif_of(entry(0x0100, 99, 7, b"1234"), TURNED),
    "more entries than there are": exif_of(TURNED).replace(b"\x08\0\0\0\1\0", b"\x08\0\0\0\xff\xff"),
    "a list": exif_of(entry(0x0112, 3, 2, b"\6\0\6\0")),
}
NO_ORIENTATION = {
    "nothing": b"",
    "no TIFF": b"garbage",
    "a cut header": b"II*\0",
    "an offset out of it": b"II*\0\xff\xff\xff\x7f",
    "a cut directory": exif_of(TURNED)[:14],
    "an unknown orientation": exif_of(entry(0x0112, 3, 1, b"\x63")),
    "an orientation in letters": exif_of(entry(0x0112, 2, 2, b"6")),
    "noise": np.random.default_rng(0).bytes(300),
}


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def with_metadata(form: str, image: Image.Image, exif: bytes) -> bytes:
    data = stored(image, "PNG" if form == "raw profile" else form, **({"lossless": True} if form == "WEBP" else {}))
    if form == "JPEG":
        return data[:2] + segment(0xE1, b"Exif\0\0" + exif) + data[2:]
    if form == "PNG":
        return data[:33] + chunk(b"eXIf", exif) + data[33:]
    if form == "raw profile":
        text = b"Raw profile type exif\0\0" + zlib.compress(f"\nexif\n{len(exif):8}\n{exif.hex()}\n".encode())
        return data[:33] + chunk(b"zTXt", text) + data[33:]
    width, height = ((side - 1).to_bytes(3, "little") for side in image.size)
    chunks = [b"VP8X" + struct.pack("<I", 10) + b"\x08\0\0\0" + width + height, data[12:]]
    chunks.append(b"EXIF" + struct.pack("<I", len(exif)) + exif + b"\0" * (len(exif) % 2))
    whole = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(whole)) + whole


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kind", [*BROKEN_EXIF, *NO_ORIENTATION])
def test_broken_exif_costs_no_image_and_the_orientation_is_read_where_it_can_be(form: str, kind: str):
    plain = pixels(stored(NOISE.crop((0, 0, 40, 24)), form, **({"lossless": True} if form == "WEBP" else {})))
    data = with_metadata(form, NOISE.crop((0, 0, 40, 24)), {**BROKEN_EXIF, **NO_ORIENTATION}[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = pixels(data)
    assert (seen == (np.rot90(plain, -1) if kind in BROKEN_EXIF else plain)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_that_of_pillow(orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    for data in (stored(NOISE, exif=exif.tobytes()), stored(NOISE, "JPEG", xmp=xmp), stored(NOISE, "WEBP", xmp=xmp)):
        with Image.open(BytesIO(data)) as image:
            assert (pixels(data) == np.asarray(ImageOps.exif_transpose(image).convert("RGB"))).all()


TIFF = 'xmlns:{}="http://ns.adobe.com/tiff/1.0/"'
XMP = {
    "an attribute": f"<rdf:Description {TIFF.format('tiff')} tiff:Orientation='6'/>",
    "spaces": f'<rdf:Description {TIFF.format("tiff")}\n tiff:Orientation = "6" tiff:Make="x"/>',
    "an element": f"<rdf:Description {TIFF.format('tiff')}><tiff:Orientation>\n 6 </tiff:Orientation></rdf:Description>",
    "another prefix": f"<rdf:Description {TIFF.format('t-1')} xmlns:tiff='urn:other' tiff:Orientation='3' t-1:Orientation='6'/>",
    "an element of another prefix": f"<rdf:Description {TIFF.format('ns0')}><ns0:Orientation>6</ns0:Orientation></rdf:Description>",
    "an element with an attribute": "<tiff:Orientation rdf:datatype='x'>6</tiff:Orientation>",
    "no declaration": '<rdf:Description tiff:Orientation="6"/>',
}


@pytest.mark.parametrize("spelling", XMP)
def test_the_orientation_in_xmp_is_read_in_any_spelling(spelling: str):
    plain = pixels(stored(NOISE))
    text = b"XML:com.adobe.xmp\0\0\0\0\0" + XMP[spelling].encode()
    data = stored(NOISE)
    assert (pixels(data[:33] + chunk(b"iTXt", text) + data[33:]) == np.rot90(plain, -1)).all()
    other = text.replace(b"/tiff/1.0/", b"/exif/1.0/").replace(b"tiff:Ori", b"exif:Ori")
    assert (pixels(data[:33] + chunk(b"iTXt", other) + data[33:]) == plain).all()


@pytest.mark.parametrize("cut", [1, 9, 20, 40])
@pytest.mark.parametrize("animated", [False, True])
def test_a_webp_file_cut_in_the_metadata_behind_its_pixels_is_whole(cut: int, animated: bool):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker with a long name, so that the cut is behind the orientation"
    more = {"save_all": True, "append_images": [Image.new("RGB", NOISE.size)]} if animated else {}
    plain = pixels(stored(NOISE, "WEBP", lossless=True, **more))
    data = stored(NOISE, "WEBP", lossless=True, exif=exif.tobytes(), **more)
    assert data[-cut - 60 :].find(b"EXIF") < 60 and (pixels(data[:-cut]) == np.rot90(plain, -1)).all()
    assert (pixels(data[: data.rindex(b"EXIF") + 9]) == plain).all(), "cut before the orientation"
    with pytest.raises(DecodeError):
        decode_image(data[: data.rindex(b"EXIF") - 2])


def test_a_still_webp_file_that_ends_with_its_pixels_is_whole():
    data = with_metadata("WEBP", NOISE, exif_of(TURNED))
    plain = pixels(stored(NOISE, "WEBP", lossless=True))
    for end in (data.rindex(b"EXIF"), data.rindex(b"EXIF") + 5):
        assert (pixels(data[:end]) == plain).all()


BIG = bytes(3_000_000)
CHUNKS = {
    "long compressed text": [chunk(b"zTXt", b"k\0\0" + zlib.compress(BIG))],
    "long international text": [chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(BIG))],
    "a long color profile": [chunk(b"iCCP", b"icc\0\0" + zlib.compress(BIG))],
    "a color profile packed in an unknown way": [chunk(b"iCCP", b"icc\0\7abc")],
    "much text": [chunk(b"tEXt", b"k%d\0" % n + b"a" * 900_000) for n in range(80)],
    "text packed in an unknown way": [chunk(b"zTXt", b"k\0\7abc")],
    "a raw profile that is not hex": [chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 12\nzz"))],
    "wrong checksums": [chunk(name, b"\0" * 40)[:-1] + b"x" for name in (b"tEXt", b"gAMA", b"tRNS", b"sBIT", b"pHYs")],
    "empty chunks": [
        chunk(name, b"") for name in (b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"iCCP", b"tRNS", b"acTL", b"fcTL", b"eXIf", b"sBIT")
    ],
    "a broken animation": [chunk(b"acTL", bytes(8)), chunk(b"fcTL", b"\xff" * 26)],
}


@pytest.mark.parametrize("kind", CHUNKS)
@pytest.mark.parametrize("behind", [False, True])
def test_ancillary_chunks_cost_no_image(kind: str, behind: bool):
    plain, extra = stored(NOISE), b"".join(CHUNKS[kind])
    data = plain[:-12] + extra + plain[-12:] if behind else plain[:33] + extra + plain[33:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (pixels(data) == pixels(plain)).all()
    if behind:
        assert (pixels(data[: -12 - len(extra) // 2]) == pixels(plain)).all(), "it ends in metadata"


SEGMENTS = {
    "a short JFIF": segment(0xE0, b"JFIF\0"),
    "a short Adobe": segment(0xEE, b"Adobe"),
    "a short color profile": segment(0xE2, b"ICC_PROFILE\0"),
    "two images that are none": segment(0xE2, b"MPF\0" + b"x" * 20),
    "a short Photoshop block": segment(0xED, b"Photoshop 3.0\x008BIM\4\4"),
    "a comment": segment(0xFE, b"\xff" * 300),
    "everything empty": b"".join(segment(marker, b"") for marker in range(0xE0, 0xF0)),
    "junk between segments": b"\0\0\xff\0junk\xff\xff",
}


@pytest.mark.parametrize("kind", SEGMENTS)
def test_application_segments_cost_no_image(kind: str):
    plain = stored(NOISE, "JPEG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (pixels(plain[:20] + SEGMENTS[kind] + plain[20:]) == pixels(plain)).all()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "raw profile"])
def test_no_byte_of_metadata_decides_about_pixels(form: str):
    """Random damage to the metadata alone; at most the orientation may change."""
    exif = Image.Exif()
    for tag, value in {0x010F: "maker", 0x011A: 72.0, 0x0128: 2, 0x0131: "software", 0x0132: "2020:01:01 00:00:00"}.items():
        exif[tag] = value
    block, generator = exif.tobytes().removeprefix(b"Exif\0\0"), np.random.default_rng(4)
    plain = pixels(stored(NOISE, "PNG" if form == "raw profile" else form, **({"lossless": True} if form == "WEBP" else {})))
    turns = [turn for side in (plain, plain[:, ::-1]) for turn in (np.rot90(side, times) for times in range(4))]
    for _ in range(60):
        damaged = bytearray(block)
        for place in generator.integers(0, len(block), 4):
            damaged[place] = generator.integers(256)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            seen = pixels(with_metadata(form, NOISE, bytes(damaged)))
        assert any((seen == turn).all() for turn in turns)


def test_the_extension_is_that_of_the_content():
    image = Image.new("RGB", (8, 8))
    assert [decode(stored(image, form)).extension for form in ("JPEG", "PNG", "WEBP")] == ["jpg", "png", "webp"]
    pair = stored(image, "MPO", save_all=True, append_images=[image])
    assert decode(pair).extension == "jpg"


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    assert pixels(stored(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
def test_a_truncated_file_is_an_error(form: str, share: float):
    data = stored(NOISE, form)
    with pytest.raises(DecodeError):
        decode_image(data[: int(len(data) * share)])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_damage_raises_nothing_but_decode_error(form: str):
    generator, data = np.random.default_rng(1), stored(NOISE, form)
    for _ in range(100):
        damaged = bytearray(data)
        for place in generator.integers(0, len(data), 3):
            damaged[place] = generator.integers(256)
        try:
            decode_image(bytes(damaged))
        except DecodeError as error:
            assert str(error)


def test_other_formats_are_refused():
    with pytest.raises(DecodeError, match="not a JPEG, PNG or WebP"):
        decode_image(stored(Image.new("RGB", (8, 8)), "GIF"))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [1500, 100])
def test_too_many_pixels_are_refused(monkeypatch: pytest.MonkeyPatch, limit: int):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DecodeError, match="pixels"):
        decode_image(stored(NOISE))


@pytest.mark.parametrize(("form", "options", "scans"), [("PNG", {}, 1), ("JPEG", {}, 1), ("JPEG", {"progressive": True}, 10)])
def test_pixels_and_scans_have_a_limit(form: str, options: dict, scans: int):
    """Libjpeg decodes all pixels in every scan, and a small file may have thousands."""
    stream = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 16, 3), np.uint8)).save(stream, form, **options)
    decode_image(stream.getvalue(), 24.0 * 16 * scans)
    with pytest.raises(TooLarge, match=rf"^it has 16x24 pixels{' in 10 scans' if scans > 1 else ''}, more than the limit of 0.00"):
        decode_image(stream.getvalue(), 24.0 * 16 * scans - 1)
