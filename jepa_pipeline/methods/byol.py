"""Prediction of one view's projection from the other's; predictor and stop-gradient prevent collapse."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa_pipeline.batch import Batch, Output
from jepa_pipeline.config.methods import BYOLConfig, SimSiamConfig
from jepa_pipeline.losses.arithmetic import unit
from jepa_pipeline.losses.prediction import cosine
from jepa_pipeline.methods.method import Method
from jepa_pipeline.models.ema import copy_frozen, update_ema
from jepa_pipeline.models.head import MLP
from jepa_pipeline.models.interface import BaseEncoder

Views = Sequence[Float[Tensor, "B _ _ _"]]
Projections = list[Float[Tensor, "B E"]]


class SimSiam(Method):
    """SimSiam (Chen and He 2021, section 3): the target is the other view's projection, without its gradient."""

    weight = 0.5
    """Weight of the mean squared distance of unit vectors: the paper's loss is the mean negative cosine."""

    def __init__(self, config: SimSiamConfig | BYOLConfig, encoder: BaseEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = MLP(self.encoder.width, config.projector)
        self.predictor = MLP(config.projector.out, config.predictor)
        self.embedding_width = config.predictor.out

    def forward(self, batch: Batch, step: int, seed: int) -> Output:
        features = [self.encoder(view) for view in batch.views]
        projections = [self.projector(view_features) for view_features in features]
        predictions = torch.cat([self.predictor(projection) for projection in projections])  # 2B E
        first, second = self.teacher_output(batch.views, projections)
        targets = torch.cat([second, first])  # 2B E
        return Output(
            losses=cosine(predictions, targets, self.weight),
            features=features[0].detach(),
            targets=normalize_to_sphere(targets),
            predictions=normalize_to_sphere(predictions.detach()),
            metrics={},
        )

    def teacher_output(self, views: Views, projections: Projections) -> Projections:
        """Return the projection of each view that the other one predicts."""
        return [projection.detach() for projection in projections]


class BYOL(SimSiam):
    """BYOL (Grill et al. 2020, section 3): the target is the other view's projection by an average of the network.

    Weights are averaged; the target's batch norm normalizes by its own batch. As in the paper the online encoder is exported.
    """

    weight = 2.0
    """The paper's loss is the sum over both directions."""

    def __init__(self, config: BYOLConfig, encoder: BaseEncoder) -> None:
        super().__init__(config, encoder)
        self.ema = config.ema
        self.target = copy_frozen(nn.Sequential(self.encoder, self.projector))

    @torch.no_grad()
    def teacher_output(self, views: Views, projections: Projections) -> Projections:
        return [self.target(view) for view in views]

    def after_optimizer_step(self, step: int, schedule_steps: int) -> None:
        online = nn.Sequential(self.encoder, self.projector)  # not an attribute: the state would contain both twice
        update_ema(self.target, online, cosine_momentum(step, schedule_steps, self.ema))


def cosine_momentum(step: int, steps: int, start: float) -> float:
    """Return the momentum of update `step`, counted from 1: from `start` to 1 along a cosine (Grill et al. 2020, section 3.2)."""
    share = min((step - 1) / steps, 1.0)
    return 1 - (1 - start) * (math.cos(math.pi * share) + 1) / 2


def normalize_to_sphere(vectors: Float[Tensor, "S E"]) -> Float[Tensor, "S E"]:
    """Scale vectors to length sqrt(E): uniform ones then have standard deviation 1 in each dimension."""
    return unit(vectors) * vectors.shape[1] ** 0.5
