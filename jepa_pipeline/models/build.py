"""Build an encoder from its configuration."""

from jepa_pipeline.config.custom_encoder import CustomEncoderConfig
from jepa_pipeline.config.image_video import ImageVideoConfig
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.stack import StackConfig
from jepa_pipeline.models.backbone import Backbone
from jepa_pipeline.models.custom import CustomEncoder, CustomFeatures
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.image_video import ImageVideoEncoder
from jepa_pipeline.models.interface import BaseEncoder, TokenEncoder
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
        case CustomEncoderConfig():  # before EncoderConfig, of which it is a subclass, as StackConfig is
            return CustomEncoder(config)
        case StackConfig():
            return Stack(config)
        case EncoderConfig():
            return JEPA_ENCODERS[type(config)](config)


def build_jepa_encoder(config: EncoderConfig) -> TokenEncoder:
    """Return an untrained encoder that encodes the patches of a mask without the others, as a JEPA needs.

    Raises:
        UserError: a user's own network does not.
    """
    if not isinstance(config, CustomEncoderConfig):
        return JEPA_ENCODERS[type(config)](config)
    encoder = CustomEncoder(config)
    encoder.check_keeps()
    return encoder


def build_feature_encoder(config: EncoderConfig | BackboneConfig) -> BaseEncoder:
    """Return an untrained encoder whose forward pass returns pooled features, as methods need that compare views."""
    return CustomFeatures(config) if isinstance(config, CustomEncoderConfig) else build_encoder(config)
