"""Compressed bytes to an RGB image."""

import warnings
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

from jepa_pipeline.data.sample import DecodeError

EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""Formats that are read, by Pillow's names, and the extension of each in a shard. Phones write JPEG as MPO."""

ORIENTED = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}
"""Keys of Image.info that may hold an orientation; asking Pillow for it takes longer than decoding a small image."""

# check_pixels refuses such images with an error, so Pillow's warning about them would only repeat it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode_image(data: bytes) -> Image.Image:
    """Return an image as RGB, upright.

    EXIF orientation is applied, transparency is composited on white, 16-bit gray is scaled to 8 bits, and of an
    animation the first frame is taken.

    Raises:
        DecodeError: it is not JPEG, PNG or WebP, truncated, damaged, or has more pixels than Image.MAX_IMAGE_PIXELS.
    """
    return decode_with_extension(data)[0]


def decode_with_extension(data: bytes) -> tuple[Image.Image, str]:
    """Return an image as decode_image does, and the extension of its format."""
    try:
        with Image.open(BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            check_pixels(image)
            extension = EXTENSIONS[image.format or ""]
            image.load()
            if ORIENTED & image.info.keys():
                ImageOps.exif_transpose(image, in_place=True)
            return to_rgb(image), extension
    except DecodeError:
        raise
    except Image.UnidentifiedImageError as error:
        raise DecodeError("it is not a JPEG, PNG or WebP image") from error
    except Exception as error:  # on damaged bytes Pillow's readers raise almost anything
        raise DecodeError(f"{error or type(error).__name__}") from error


def check_pixels(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise DecodeError(f"it has {image.width}x{image.height} pixels, more than the limit of {limit}")


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # convert("RGB") would clip the 16 bits instead of scaling them
        gray = np.asarray(image).astype(np.float32) / 257
        return Image.fromarray(np.clip(gray.round(), 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:  # palettes may be transparent too, so the mode does not tell
        pixels = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, pixels).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
