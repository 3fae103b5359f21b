"""From a configuration to the method it names."""

from jepa_pipeline.config.hjepa import HJepaConfig
from jepa_pipeline.config.jepa import IJepaConfig, VJepaConfig
from jepa_pipeline.config.methods import BYOLConfig, LeJEPAConfig, MethodConfig, SimSiamConfig, SwAVConfig
from jepa_pipeline.methods.byol import BYOL, SimSiam
from jepa_pipeline.methods.hjepa import HJEPA
from jepa_pipeline.methods.jepa import TARGETS
from jepa_pipeline.methods.joint_embedding import OBJECTIVES, JointEmbedding, LeJEPA
from jepa_pipeline.methods.method import Method
from jepa_pipeline.methods.swav import SwAV
from jepa_pipeline.models.encoder import Encoder


def build_method(config: MethodConfig) -> Method:
    """The method a configuration names."""
    match config:
        case IJepaConfig() | VJepaConfig():
            return TARGETS[config.target](config, Encoder(config.encoder))
        case HJepaConfig():
            return HJEPA(config)
        case LeJEPAConfig():
            return LeJEPA(config)
        case SwAVConfig():
            return SwAV(config)
        case BYOLConfig():
            return BYOL(config)
        case SimSiamConfig():
            return SimSiam(config)
        case _:
            return JointEmbedding(config, OBJECTIVES[config.name])
