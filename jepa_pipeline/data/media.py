"""Checks that a method can be trained on the kind of data it is given: images or videos."""

from collections.abc import Collection, Sequence

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.method import BaseMethodConfig
from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.config.pixel_format import RGB_CHANNELS, PixelFormat
from jepa_pipeline.data.manifest import StoredPixels
from jepa_pipeline.redaction import redact


def check_kind(location: str, kind: DataKind, method: BaseMethodConfig) -> None:
    """Raise UserError if the method's encoder cannot be trained on data of this kind."""
    modality = method.encoder.modality
    if kind not in modality.data_kinds:
        cure = f"raise {method.frames_key}" if method.frames_key else "choose vjepa, vjepa2 or hjepa"
        raise UserError(
            f"{redact(location)} holds {kind}, but this run's {method.name} trains an encoder of {modality.unit}: {cure}, "
            "or use other data"
        )


def check_stored(location: str, stored: Sequence[StoredPixels], form: PixelFormat) -> None:
    """Raise UserError if a manifest tells that no image can be used in this form; which of several can is known once decoded."""
    if not stored or any(part.channels == form.channels or form.channels == RGB_CHANNELS > part.channels for part in stored):
        return
    found, most = " and ".join(part.describe() for part in stored), max(stored, key=lambda part: part.images)
    if form.channels == RGB_CHANNELS and most.channels <= RGB_CHANNELS + 1:  # transparent images become RGB
        return
    raise UserError(
        f"{redact(location)} holds {found}, but this run or encoder takes {PixelFormat(form.channels).name_channels()}: use other "
        f"data, or train with data.channels={most.channels} and views.mean and views.std as `jepa shards stats` prints them"
    )


def check_motion(kinds: Collection[DataKind], method: BaseMethodConfig) -> None:
    """Raise UserError if a method that predicts only the future is given only still images: copying the past solves that."""
    if set(kinds) == {"images"} and method.predicts_only_future:
        raise UserError(
            f"data.train holds only still images, but {method.name} predicts only the future: use videos, or mask blocks instead"
        )
