"""Joint-embedding predictive architectures."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from jepa_pipeline.batch import Batch, Output
from jepa_pipeline.config.methods import IJepaConfig
from jepa_pipeline.losses.prediction import smooth_l1
from jepa_pipeline.methods.method import Method
from jepa_pipeline.methods.regularizer import build_regularizer
from jepa_pipeline.models.ema import make_target, update_ema
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.predictor import Predictor
from jepa_pipeline.models.tokens import take

Tokens = Float[Tensor, "B _ D"]


class SharedJEPA(Method):
    """Predict, in representation space, the hidden part of x from its visible part (Assran et al. 2023, section 3).

    energy(x) = distance(predictor(encoder(x_context), where), normalise(target(x))_where)

    Here the target is the encoder itself, with its gradient: only a regulariser of both representations keeps them from
    collapsing, as in LeCun 2022 (section 4.5).
    """

    def __init__(self, config: IJepaConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config.encoder)
        self.predictor = Predictor(config.predictor, config.encoder.size.embed_dim, config.encoder.grid)
        self.regularizer = build_regularizer(config.regularizer, config.encoder.size.embed_dim)

    def represent(self, pixels: Float[Tensor, "B C H W"]) -> Tokens:
        """All of the image, as the target sees it."""
        return self.encoder(pixels)

    def trained(self, context: Tokens, everything: Tokens) -> list[Tokens]:
        """The representations that have a gradient, which is to keep information in them."""
        return [context, everything]

    def forward(self, batch: Batch) -> Output:
        (pixels,), (masks,) = batch.views, batch.masks
        everything = self.represent(pixels)  # B N D
        targets = take(F.layer_norm(everything.float(), everything.shape[-1:]), masks.targets)  # B G M D
        context = self.encoder(pixels, keep=masks.context)  # B K D
        predictions = self.predictor(context, masks)  # B G M D
        return Output(
            losses=smooth_l1(predictions, targets) | self.regularizer(self.trained(context, everything), self.step_key),
            features=everything.detach().mean(1),
            targets=targets.detach().flatten(0, 2),
            predictions=predictions.detach().flatten(0, 2),
            metrics={},
        )

    @property
    def kept_encoder(self) -> Encoder:
        return self.encoder

    @property
    def vector_width(self) -> int:
        return self.encoder.width


class StopGradientJEPA(SharedJEPA):
    """The target is the encoder itself, without its gradient."""

    @torch.no_grad()
    def represent(self, pixels: Float[Tensor, "B C H W"]) -> Tokens:
        return self.encoder(pixels)

    def trained(self, context: Tokens, everything: Tokens) -> list[Tokens]:
        return [context]


class JEPA(StopGradientJEPA):
    """I-JEPA: the target is a slow average of the encoder, and is kept."""

    kept = "target"

    def __init__(self, config: IJepaConfig) -> None:
        super().__init__(config)
        self.ema = config.ema
        self.target = make_target(self.encoder)

    @torch.no_grad()
    def represent(self, pixels: Float[Tensor, "B C H W"]) -> Tokens:
        return self.target(pixels)

    @property
    def kept_encoder(self) -> Encoder:
        return self.target

    def after_step(self, step: int, schedule_steps: int) -> None:
        update_ema(self.target, self.encoder, linear_momentum(step, schedule_steps, *self.ema))


TARGETS = {"ema": JEPA, "stop_gradient": StopGradientJEPA, "shared": SharedJEPA}


def linear_momentum(step: int, steps: int, start: float, end: float) -> float:
    """The target's momentum after update number `step`, counted from 1: `start` at the first, `end` after the last."""
    return start + (end - start) * min((step - 1) / steps, 1.0)
