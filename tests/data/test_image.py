"""Every kind of image file becomes the RGB image a person would see."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from jepa_pipeline.data.image import decode_image, decode_with_extension
from jepa_pipeline.data.sample import DecodeError

RAMP = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)


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


def test_the_extension_is_that_of_the_content():
    image = Image.new("RGB", (8, 8))
    assert [decode_with_extension(stored(image, form))[1] for form in ("JPEG", "PNG", "WEBP")] == ["jpg", "png", "webp"]
    pair = stored(image, "MPO", save_all=True, append_images=[image])
    assert decode_with_extension(pair)[1] == "jpg"


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    assert pixels(stored(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True))[0, 0].tolist() == [255, 0, 0]


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))


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
