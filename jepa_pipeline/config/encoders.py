"""The kinds of encoders: those that a method may have, and those that a folder may hold."""

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from jepa_pipeline.config.custom_encoder import CustomEncoderConfig
from jepa_pipeline.config.image_video import ImageVideoConfig
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.stack import StackConfig

CLASS_BY_KEY = {
    "class_path": "CustomEncoderConfig",
    "timm": "BackboneConfig",
    "above": "StackConfig",
    "rope_grid_size": "ImageVideoConfig",
}
"""Class of an encoder's configuration, by the key that only this class has; EncoderConfig has no such key."""


def encoder_config_type(encoder: Any) -> str:
    """Return the class of an encoder's configuration, so that pydantic reports the mistakes of that class alone."""
    if isinstance(encoder, dict):
        return next((name for key, name in CLASS_BY_KEY.items() if key in encoder), "EncoderConfig")
    return type(encoder).__name__ if isinstance(encoder, EncoderConfig | BackboneConfig) else "EncoderConfig"


def choose(default: str) -> Discriminator:
    """Return what chooses a kind that a method may have; anything else counts as the default, which refuses it."""
    others = {"EncoderConfig": ("BackboneConfig", "StackConfig", "ImageVideoConfig"), "BackboneConfig": ("EncoderConfig",)}[default]
    return Discriminator(lambda encoder: default if (kind := encoder_config_type(encoder)) in others else kind)


Custom = Annotated[CustomEncoderConfig, Tag("CustomEncoderConfig")]
Network = Annotated[BackboneConfig, Tag("BackboneConfig")]
Token = Annotated[EncoderConfig, Tag("EncoderConfig")] | Custom

TokenEncoderConfig = Annotated[Token, choose("EncoderConfig")]
"""Encoders that a JEPA can train."""
FeatureEncoderConfig = Annotated[Network | Custom, choose("BackboneConfig")]
"""Encoders of methods that compare views."""
OneEncoderConfig = Annotated[Token | Network, Discriminator(encoder_config_type)]
"""Encoders of a method of the user's own."""
AnyEncoderConfig = Annotated[
    Token | Network | Annotated[StackConfig, Tag("StackConfig")] | Annotated[ImageVideoConfig, Tag("ImageVideoConfig")],
    Discriminator(encoder_config_type),
]
"""Encoders that a folder may hold."""
