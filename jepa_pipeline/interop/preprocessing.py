"""The preprocessing of an exported encoder: as metadata of its file, and as code and words of its card."""

import json
from typing import Any

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.encoder_card import EncoderCard
from jepa_pipeline.config.pixel_format import RGB8
from jepa_pipeline.interop.format import ExportRequest

IMAGE_CODE = """image = Image.open("photo.jpg").convert("RGB")
width, height = (int(size * side / min(image.size)) for side in image.size)
left, top = round((width - size) / 2), round((height - size) / 2)
image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
pixels = ((np.asarray(image, np.float32) / 255 - mean) / std).transpose(2, 0, 1)[None]"""
"""Python with PIL and numpy that equals `center_view` and `normalize`, to the digit but for the order of two operations in fp32."""


def takes_photos(request: ExportRequest) -> bool:
    """Return whether the encoder takes 8-bit RGB images, not clips or other pixels."""
    return not request.encoder.config.modality.has_time and request.card.pixel_format == RGB8


def describe(card: EncoderCard) -> dict[str, Any]:
    """Return the preprocessing as values of JSON."""
    config = card.encoder
    return {
        "name": card.name,
        "mean": list(card.mean),
        "std": list(card.std),
        "bits": card.bits,
        "scale": f"0..1: values over {card.pixel_format.largest}",
        "size": config.image_size,
        "resize": "shorter side to size, bicubic with antialiasing, then center crop",
        **({"frames": config.frames} if config.modality.has_time else {}),
        **({"clip": card.clip.model_dump(mode="json")} if card.clip else {}),
    }


def metadata(request: ExportRequest) -> dict[str, str]:
    """Return the preprocessing as texts: those that are no words are JSON."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in describe(request.card).items()}


def code(request: ExportRequest) -> str:
    """Return Python that makes a batch of one from photo.jpg, or from noise if the encoder does not take photos."""
    mean, std = (f"np.array({list(values)}, np.float32)" for values in (request.card.mean, request.card.std))
    config = request.encoder.config
    if takes_photos(request):
        return f"size, mean, std = {config.image_size}, {mean}, {std}\n{IMAGE_CODE}"
    shape = (
        1,
        len(request.card.mean),
        *([config.frames] if config.modality.has_time else []),
        config.image_size,
        config.image_size,
    )
    axes = (-1, *[1] * (len(shape) - 2))
    return (
        f"mean, std = {mean}.reshape{axes}, {std}.reshape{axes}\n"
        f"values = np.random.rand{shape}.astype(np.float32)  # yours, {layout(request)}, over {request.card.pixel_format.largest}\n"
        "pixels = (values - mean) / std"
    )


def layout(request: ExportRequest) -> str:
    """Return the axes of the input, such as "B 3 T H W"."""
    return f'"B {len(request.card.mean)} {"T " if request.encoder.config.modality.has_time else ""}H W"'


def words(request: ExportRequest) -> str:
    """Return the preprocessing in sentences."""
    card, config = request.card, request.encoder.config
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (card.mean, card.std))
    what = "images"
    if config.modality.has_time:
        what = f"{config.frames} frames of a video" + (f", {rate(card.clip)}," if card.clip else "")
    return (
        f"The input is {layout(request)}: {what}, shorter side resized to {config.image_size} pixels (bicubic, antialiased), "
        f"center-cropped, divided by {card.pixel_format.largest}, then normalized per channel with mean ({mean}) and std ({std}), "
        "as for the probes below."
    )


def rate(clip: ClipConfig) -> str:
    """Return which frames of a video are a clip."""
    return f"{clip.fps:g} per second" if clip.fps else f"{clip.stride} frames from one to the next"
