"""Clustering as prediction: each view predicts the cluster assignment of the others."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa_pipeline.batch import Batch, Output
from jepa_pipeline.config.methods import SwAVConfig
from jepa_pipeline.distributed import gather, to_local
from jepa_pipeline.losses.arithmetic import unit
from jepa_pipeline.losses.swapped import sinkhorn, swapped_prediction
from jepa_pipeline.methods.method import Method
from jepa_pipeline.models.head import MLP
from jepa_pipeline.models.interface import BaseEncoder
from jepa_pipeline.models.multicrop import forward_multicrop


class SwAV(Method):
    """SwAV (Caron et al. 2020, section 3): codes are soft assignments to prototypes that use all of them equally."""

    queue: Float[Tensor, "V L E"]

    def __init__(self, config: SwAVConfig, encoder: BaseEncoder) -> None:
        super().__init__()
        self.config = config
        self.embedding_width = config.projector.out
        self.encoder = encoder
        self.projector = MLP(self.encoder.width, config.projector)
        self.prototypes = nn.Linear(self.embedding_width, config.prototypes, bias=False)
        self.normalize_prototypes()
        self.register_buffer("queue", torch.zeros(config.code_views, config.queue_length, self.embedding_width))
        self.queued = 0
        """Embeddings per view that have been added to the queue so far."""

    def forward(self, batch: Batch, step: int, seed: int) -> Output:
        features = forward_multicrop(self.encoder, batch.views)  # V of B D
        embeddings = unit(self.projector(torch.cat(features))).unflatten(0, (len(features), -1))  # V B E
        gathered = gather(embeddings, dim=1)  # V S E
        with torch.autocast(gathered.device.type, enabled=False):  # half precision is too coarse for scores divided by 0.05
            scores = gathered @ self.prototype_weight(step).T  # V S P
            codes = self.compute_codes(scores)  # C S P
        self.enqueue(gathered, step)
        scale = self.embedding_width**0.5  # gives vectors spread over the sphere a standard deviation of 1 per dimension
        return Output(
            losses=swapped_prediction(scores, codes, self.config.temperature),
            features=features[0].detach(),
            targets=embeddings[1].detach() * scale,
            predictions=embeddings[0].detach() * scale,
            metrics={},
        )

    def prototype_weight(self, step: int) -> Float[Tensor, "P E"]:
        """Return the prototypes, with a gradient of zero while they are frozen."""
        # zero rather than none, because DDP waits for the gradient of every parameter
        weight, trained = self.prototypes.weight, float(step >= self.config.frozen_steps)
        return trained * weight + (1 - trained) * weight.detach()

    @torch.no_grad()
    def normalize_prototypes(self) -> None:
        """Project the prototypes back onto the unit sphere in place, each process its own rows of sharded ones."""
        rows = to_local(self.prototypes.weight)
        rows.copy_(unit(rows))

    def after_optimizer_step(self, step: int, schedule_steps: int) -> None:
        self.normalize_prototypes()

    @torch.no_grad()
    def compute_codes(self, scores: Float[Tensor, "V S P"]) -> Float[Tensor, "_ S P"]:
        """Return the codes of the first views, each computed together with its queue once that is full."""
        samples, codes = scores.shape[1], []
        for view, queue in enumerate(self.queue):
            earlier = queue @ self.prototypes.weight.T if self.queue_is_full else scores[view, :0]
            view_scores = torch.cat([earlier, scores[view]])
            codes.append(sinkhorn(view_scores, self.config.epsilon, self.config.sinkhorn_iterations)[-samples:])
        return torch.stack(codes)

    @property
    def queue_is_full(self) -> bool:
        return 0 < self.config.queue_length <= self.queued

    @torch.no_grad()
    def enqueue(self, embeddings: Float[Tensor, "V S E"], step: int) -> None:
        """Add embeddings to the front of the queue and drop the oldest."""
        length = self.config.queue_length
        if length and self.training and step >= self.config.queue_start_steps:
            self.queue.copy_(torch.cat([embeddings[: len(self.queue)], self.queue], dim=1)[:, :length])
            self.queued += embeddings.shape[1]

    def get_extra_state(self) -> dict[str, Any]:
        return {"queued": self.queued}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.queued = state["queued"]
