"""Joint-embedding predictive architectures."""

import torch
from torch.nn import functional as F

from jepa_pipeline.batch import Batch, Output
from jepa_pipeline.config.methods import IJepaConfig
from jepa_pipeline.losses.prediction import smooth_l1
from jepa_pipeline.methods.method import Method
from jepa_pipeline.models.ema import make_target, update_ema
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.predictor import Predictor
from jepa_pipeline.models.tokens import take


class JEPA(Method):
    """Predict, in representation space, the hidden part of x from its visible part (Assran et al. 2023, section 3).

    energy(x) = distance(predictor(encoder(x_context), where), normalise(target(x))_where)
    """

    def __init__(self, config: IJepaConfig) -> None:
        super().__init__()
        self.ema = config.ema
        self.encoder = Encoder(config.encoder)
        self.predictor = Predictor(config.predictor, config.encoder.size.embed_dim, config.encoder.grid)
        self.target = make_target(self.encoder)

    def forward(self, batch: Batch) -> Output:
        (pixels,), (masks,) = batch.views, batch.masks
        with torch.no_grad():
            everything = self.target(pixels)  # B N D
            targets = take(F.layer_norm(everything.float(), everything.shape[-1:]), masks.targets)  # B G M D
        context = self.encoder(pixels, keep=masks.context)  # B K D
        predictions = self.predictor(context, masks)  # B G M D
        return Output(
            losses=smooth_l1(predictions, targets),
            features=everything.mean(1),
            targets=targets.flatten(0, 2),
            predictions=predictions.detach().flatten(0, 2),
            metrics={},
        )

    @property
    def kept_encoder(self) -> Encoder:
        return self.target

    def update_target(self, step: int, schedule_steps: int) -> None:
        update_ema(self.target, self.encoder, linear_momentum(step, schedule_steps, *self.ema))


def linear_momentum(step: int, steps: int, start: float, end: float) -> float:
    """The target's momentum after update number `step`, counted from 1: `start` at the first, `end` after the last."""
    return start + (end - start) * min((step - 1) / steps, 1.0)


def build_method(config: IJepaConfig) -> Method:
    """The method a configuration names."""
    match config.name:
        case "ijepa":
            return JEPA(config)
