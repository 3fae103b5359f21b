"""Checks that a method can be trained on the kind of data it is given: images or videos."""

from collections.abc import Collection

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.method import BaseMethodConfig
from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.config.pixel_format import RGB8, RGB_CHANNELS, PixelFormat
from jepa_pipeline.data.manifest import Manifest, StoredPixels
from jepa_pipeline.redaction import redact

CONVERTED = frozenset({"jpg", "jpeg", "png", "webp"})
"""Extensions of images that become RGB where they are transparent or CMYK; channels of others may mean anything."""


def check_kind(location: str, kind: DataKind, method: BaseMethodConfig) -> None:
    """Raise UserError if the method's encoder cannot be trained on data of this kind."""
    modality = method.encoder.modality
    if kind not in modality.data_kinds:
        cure = f"raise {method.frames_key}" if method.frames_key else "choose vjepa, vjepa2 or hjepa"
        raise UserError(
            f"{redact(location)} holds {kind}, but this run's {method.name} trains {modality.encoder}: {cure}, or use other data"
        )


def check_stored(location: str, manifest: Manifest, form: PixelFormat) -> None:
    """Raise UserError if a manifest tells that no image can be used in this form; which of several can is known once decoded."""
    if not manifest.stored or any(may_fit(part, manifest, form) for part in manifest.stored):
        return
    found, most = " and ".join(part.describe() for part in manifest.stored), max(manifest.stored, key=lambda part: part.images)
    raise UserError(
        f"{redact(location)} holds {found}, but this run or encoder takes {form}: use other data, {propose_form(most, form)}"
    )


def may_fit(part: StoredPixels, manifest: Manifest, form: PixelFormat) -> bool:
    """Return whether images with these channels and bits can be decoded in a form."""
    if part.channels == form.channels or (part.channels == 1 and form.channels == RGB_CHANNELS):
        return form == RGB8 or form.bits > 8 or part.deep < part.images
    return form == RGB8 and part.channels <= RGB_CHANNELS + 1 and not CONVERTED.isdisjoint(manifest.extensions)


def propose_form(part: StoredPixels, form: PixelFormat) -> str:
    """Return what makes a run take these images."""
    bits = " and data.bits=16" if part.deep and part.channels != RGB_CHANNELS else ""
    if part.channels == form.channels:
        return "convert its images to 8 bits, or train with data.bits=16"
    return f"or train with data.channels={part.channels}{bits} and views.mean and views.std as `jepa shards stats` prints them"


def check_motion(kinds: Collection[DataKind], method: BaseMethodConfig) -> None:
    """Raise UserError if a method that predicts only the future is given only still images: copying the past solves that."""
    if set(kinds) == {"images"} and method.predicts_only_future:
        raise UserError(
            f"data.train holds only still images, but {method.name} predicts only the future: use videos, or mask blocks instead"
        )
