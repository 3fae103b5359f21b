"""One view's projection from the other's: only a predictor and a stopped gradient keep it from collapsing."""

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
from jepa_pipeline.models.backbone import Backbone
from jepa_pipeline.models.ema import make_target, update_ema
from jepa_pipeline.models.head import MLP

Views = Sequence[Float[Tensor, "B _ _ _"]]
Vectors = list[Float[Tensor, "B E"]]


class SimSiam(Method):
    """Chen and He 2021, section 3: the target is the other view's own projection, without its gradient."""

    weight = 0.5
    """Of the mean squared distance of unit vectors: the paper's loss is the mean negative cosine."""

    def __init__(self, config: SimSiamConfig | BYOLConfig) -> None:
        super().__init__()
        self.encoder = Backbone(config.encoder)
        self.projector = MLP(self.encoder.width, config.projector)
        self.predictor = MLP(config.projector.out, config.predictor)
        self.embedding_width = config.predictor.out

    def forward(self, batch: Batch) -> Output:
        features = [self.encoder(view) for view in batch.views]
        projections = [self.projector(view) for view in features]
        predictions = torch.cat([self.predictor(view) for view in projections])  # 2B E
        first, second = self.look(batch.views, projections)
        targets = torch.cat([second, first])  # 2B E
        return Output(
            losses=cosine(predictions, targets, self.weight),
            features=features[0].detach(),
            targets=on_sphere(targets),
            predictions=on_sphere(predictions.detach()),
            metrics={},
        )

    def look(self, views: Views, projections: Vectors) -> Vectors:
        """What is to be predicted of each view."""
        return [projection.detach() for projection in projections]

    @property
    def kept_encoder(self) -> Backbone:
        return self.encoder

    @property
    def vector_width(self) -> int:
        return self.embedding_width


class BYOL(SimSiam):
    """Grill et al. 2020, section 3: the target is the projection of the other view by a slow average of the network.

    The average is of the weights; its batch norm sees its own batch. As in the paper the online encoder is kept.
    """

    weight = 2.0
    """The paper's loss is the sum over both directions."""

    def __init__(self, config: BYOLConfig) -> None:
        super().__init__(config)
        self.ema = config.ema
        self.target = make_target(nn.Sequential(self.encoder, self.projector))

    @torch.no_grad()
    def look(self, views: Views, projections: Vectors) -> Vectors:
        return [self.target(view) for view in views]

    def after_step(self, step: int, schedule_steps: int) -> None:
        online = nn.Sequential(self.encoder, self.projector)
        update_ema(self.target, online, cosine_momentum(step, schedule_steps, self.ema))


def cosine_momentum(step: int, steps: int, start: float) -> float:
    """From `start` at the first update, counted from 1, to 1 after the last (Grill et al. 2020, section 3.2)."""
    share = min((step - 1) / steps, 1.0)
    return 1 - (1 - start) * (math.cos(math.pi * share) + 1) / 2


def on_sphere(vectors: Float[Tensor, "S E"]) -> Float[Tensor, "S E"]:
    """Of such a radius that a dimension of vectors spread over it has deviation 1."""
    return unit(vectors) * vectors.shape[1] ** 0.5
