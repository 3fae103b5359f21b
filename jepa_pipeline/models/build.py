"""Build an encoder from its configuration."""

from jepa_pipeline.config.image_video import ImageVideoConfig
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.stack import StackConfig
from jepa_pipeline.models.backbone import Backbone
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.image_video import ImageVideoEncoder
from jepa_pipeline.models.interface import BaseEncoder
from jepa_pipeline.models.stack import Stack

JEPA_ENCODERS: dict[type[EncoderConfig], type[Encoder]] = {EncoderConfig: Encoder, ImageVideoConfig: ImageVideoEncoder}
"""Encoders that a JEPA can train, by the class of their configuration."""


def build_encoder(config: EncoderConfig | BackboneConfig) -> BaseEncoder:
    """Return an untrained encoder.

    Raises:
        UserError: timm cannot build it.
    """
    match config:
        case BackboneConfig():
            return Backbone(config)
        case StackConfig():  # before EncoderConfig, of which it is a subclass
            return Stack(config)
        case EncoderConfig():
            return build_jepa_encoder(config)


def build_jepa_encoder(config: EncoderConfig) -> Encoder:
    """Return an untrained encoder that encodes the patches of a mask without the others, as a JEPA needs."""
    return JEPA_ENCODERS[type(config)](config)
