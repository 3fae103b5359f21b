"""An encoder of either kind, by its configuration."""

from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.stack import StackConfig
from jepa_pipeline.models.backbone import Backbone
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.stack import Stack

AnyEncoder = Encoder | Stack | Backbone
"""All have a config, a width and a depth, `pooled(pixels)` "B D" of that width, and `intermediates(pixels, last)` "B N D"."""


def build_encoder(config: EncoderConfig | BackboneConfig) -> AnyEncoder:
    """The untrained encoder a configuration describes.

    Raises:
        UserError: timm cannot make it.
    """
    match config:
        case BackboneConfig():
            return Backbone(config)
        case StackConfig():
            return Stack(config)
        case _:
            return Encoder(config)
