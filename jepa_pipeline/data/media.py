"""Whether a run can learn from what a data set holds: images or videos."""

from collections.abc import Collection

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.hjepa import ForwardConfig, HJepaConfig
from jepa_pipeline.config.jepa import VJepaConfig
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.video_masks import CausalConfig
from jepa_pipeline.data.remote import without_secrets
from jepa_pipeline.data.samples import Kind


def check_kind(location: str, kind: Kind, config: RunConfig) -> None:
    """Refuse videos for an encoder of images."""
    method, encoder = config.method, config.method.encoder
    if kind == "videos" and not (isinstance(encoder, EncoderConfig) and encoder.clips):
        frames = {"vjepa": "method.encoder.frames", "vjepa2": "method.encoder.frames", "hjepa": "method.levels.0.encoder.frames"}
        cure = f"raise {frames[method.name]}" if method.name in frames else "choose vjepa, vjepa2 or hjepa"
        raise UserError(
            f"{without_secrets(location)} holds videos, but this run's {method.name} trains an encoder of images: "
            f"{cure}, or name other data"
        )


def check_moves(kinds: Collection[Kind], config: RunConfig) -> None:
    """Refuse images alone where the future alone is asked for: they stand still, and to copy them is all there is to learn."""
    asked = config.method.mask_sets if isinstance(config.method, VJepaConfig | HJepaConfig) else ()
    if asked and set(kinds) == {"images"} and all(isinstance(one, ForwardConfig | CausalConfig) for one in asked):
        raise UserError(
            f"data.train holds images, which stand still, but {config.method.name} is asked for the future alone: name videos, or "
            "ask for what blocks masks hide"
        )
