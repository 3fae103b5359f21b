"""Methods from their configurations."""

from jepa_pipeline.config.custom_method import CustomMethodConfig
from jepa_pipeline.config.hjepa import HJepaConfig, LevelConfig
from jepa_pipeline.config.jepa import IJepaConfig, VJepaConfig
from jepa_pipeline.config.methods import BYOLConfig, LeJEPAConfig, MethodConfig, SimSiamConfig, SwAVConfig
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.prediction import NoRegularizer, SIGRegularizer, VICRegularizer
from jepa_pipeline.config.tasks import ForwardTaskConfig
from jepa_pipeline.methods.byol import BYOL, SimSiam
from jepa_pipeline.methods.custom import build_custom_method
from jepa_pipeline.methods.hjepa import HJEPA
from jepa_pipeline.methods.jepa import JEPA
from jepa_pipeline.methods.joint_embedding import OBJECTIVES, JointEmbedding, LeJEPA
from jepa_pipeline.methods.method import Method
from jepa_pipeline.methods.regularizer import SIG, VIC, Regularizer
from jepa_pipeline.methods.swav import SwAV
from jepa_pipeline.methods.targets import EMATarget, SharedTarget, StopGradientTarget
from jepa_pipeline.models.build import build_feature_encoder, build_jepa_encoder
from jepa_pipeline.models.coarse import build_coarse_encoder
from jepa_pipeline.models.dynamics import ForwardPredictor
from jepa_pipeline.models.interface import TokenEncoder
from jepa_pipeline.models.predictor import Predictor

AnyJepaConfig = IJepaConfig | VJepaConfig | LevelConfig


def build_method(config: MethodConfig) -> Method:
    """Return the untrained method of a configuration."""
    match config:
        case IJepaConfig() | VJepaConfig():
            return build_jepa(config, build_jepa_encoder(config.encoder))
        case HJepaConfig():
            below = [None, *config.encoders[:-1]]
            return HJEPA(config, [build_level(*pair) for pair in zip(config.levels, below, strict=True)])
        case CustomMethodConfig():
            return build_custom_method(config)
        case LeJEPAConfig():
            return LeJEPA(config, build_feature_encoder(config.encoder))
        case SwAVConfig():
            return SwAV(config, build_feature_encoder(config.encoder))
        case BYOLConfig():
            return BYOL(config, build_feature_encoder(config.encoder))
        case SimSiamConfig():
            return SimSiam(config, build_feature_encoder(config.encoder))
        case _:
            return JointEmbedding(config, build_feature_encoder(config.encoder), OBJECTIVES[config.name])


def build_level(config: LevelConfig, below: EncoderConfig | None) -> JEPA:
    """Return a level of an H-JEPA. below: the encoder whose tokens it sees; None: it sees pixels."""
    match config.encoder:
        case EncoderConfig():
            return build_jepa(config, build_jepa_encoder(config.encoder))
        case _:
            assert below is not None
            return build_jepa(config, build_coarse_encoder(config.encoder, below))


def build_jepa(config: AnyJepaConfig, encoder: TokenEncoder) -> JEPA:
    # in this order: each network takes its initial weights from the same generator
    predictor = build_predictor(config, encoder.config)
    regularizer = build_regularizer(config.regularizer, encoder.width)
    match config.target:
        case "ema":
            target = EMATarget(encoder, config.ema)
        case "stop_gradient":
            target = StopGradientTarget(encoder)
        case "shared":
            target = SharedTarget(encoder)
    return JEPA(encoder, predictor, target, regularizer, config.distance)


def build_predictor(config: AnyJepaConfig, encoder: EncoderConfig) -> Predictor | ForwardPredictor:
    match config:
        case LevelConfig(task=ForwardTaskConfig(horizon=horizon)):
            return ForwardPredictor(config.predictor, encoder, horizon=horizon)
        case _:
            return Predictor(config.predictor, encoder, mask_sets=len(config.mask_sets))


def build_regularizer(config: NoRegularizer | VICRegularizer | SIGRegularizer, width: int) -> Regularizer:
    match config:
        case NoRegularizer():
            return Regularizer()
        case VICRegularizer():
            return VIC(config, width)
        case SIGRegularizer():
            return SIG(config, width)
