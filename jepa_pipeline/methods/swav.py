"""Clustering as prediction: the code of one view from another view."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa_pipeline.batch import Batch, Output
from jepa_pipeline.config.methods import SwAVConfig
from jepa_pipeline.distributed import gather, local
from jepa_pipeline.losses.arithmetic import unit
from jepa_pipeline.losses.swapped import sinkhorn, swapped_prediction
from jepa_pipeline.methods.method import Method
from jepa_pipeline.models.backbone import Backbone
from jepa_pipeline.models.head import MLP
from jepa_pipeline.models.multicrop import by_size


class SwAV(Method):
    """Caron et al. 2020, section 3: codes are soft assignments to prototypes that use all of them equally."""

    queue: Float[Tensor, "V L E"]

    def __init__(self, config: SwAVConfig) -> None:
        super().__init__()
        self.config = config
        width = config.projector.out
        self.encoder = Backbone(config.encoder)
        self.projector = MLP(self.encoder.width, config.projector)
        self.prototypes = nn.Linear(width, config.prototypes, bias=False)
        self.normalize_prototypes()
        self.register_buffer("queue", torch.zeros(config.code_views, config.queue_length, width))
        self.queued = 0
        """Embeddings that have been put into the queue so far, of each view."""

    def forward(self, batch: Batch) -> Output:
        features = by_size(self.encoder, batch.views)  # V of B D
        embeddings = unit(self.projector(torch.cat(features))).unflatten(0, (len(features), -1))  # V B E
        whole = gather(embeddings, dim=1)  # V S E
        with torch.autocast(whole.device.type, enabled=False):  # the scores are divided by 0.05: half precision would not do
            scores = whole @ self.moving_prototypes().T  # V S P
            codes = self.codes(scores)  # C S P
        self.enqueue(whole)
        scale = whole.shape[2] ** 0.5  # so that a dimension of vectors spread over the sphere has deviation 1
        return Output(
            losses=swapped_prediction(scores, codes, self.config.temperature),
            features=features[0].detach(),
            targets=embeddings[1].detach() * scale,
            predictions=embeddings[0].detach() * scale,
            metrics={},
        )

    def moving_prototypes(self) -> Float[Tensor, "P E"]:
        """The prototypes, with a gradient of zero as long as they are frozen."""
        weight, moving = self.prototypes.weight, float(self.step >= self.config.frozen_steps)
        return moving * weight + (1 - moving) * weight.detach()

    @torch.no_grad()
    def normalize_prototypes(self) -> None:
        """Bring the prototypes back to the unit sphere, in place; dealt out to several processes, each its rows."""
        rows = local(self.prototypes.weight)
        rows.copy_(unit(rows))

    def after_step(self, step: int, schedule_steps: int) -> None:
        self.normalize_prototypes()

    @torch.no_grad()
    def codes(self, scores: Float[Tensor, "V S P"]) -> Float[Tensor, "_ S P"]:
        """Of the first views, each among its own queue's embeddings once that is full."""
        samples, codes = scores.shape[1], []
        for view, queue in enumerate(self.queue):
            earlier = queue @ self.prototypes.weight.T if self.queue_is_full else scores[view, :0]
            together = torch.cat([earlier, scores[view]])
            codes.append(sinkhorn(together, self.config.epsilon, self.config.sinkhorn_iterations)[-samples:])
        return torch.stack(codes)

    @property
    def queue_is_full(self) -> bool:
        return 0 < self.config.queue_length <= self.queued

    @torch.no_grad()
    def enqueue(self, embeddings: Float[Tensor, "V S E"]) -> None:
        """The newest first; the oldest fall out."""
        length = self.config.queue_length
        if length and self.training and self.step >= self.config.queue_start_steps:
            self.queue.copy_(torch.cat([embeddings[: len(self.queue)], self.queue], dim=1)[:, :length])
            self.queued += embeddings.shape[1]

    def get_extra_state(self) -> dict[str, Any]:
        return {"queued": self.queued}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.queued = state["queued"]

    @property
    def kept_encoder(self) -> Backbone:
        return self.encoder

    @property
    def vector_width(self) -> int:
        return self.config.projector.out
