"""Views of one image to one embedding, by a loss that draws them together and does not let them collapse."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from jepa_pipeline.batch import Batch, Output
from jepa_pipeline.config.methods import JointEmbeddingConfig, LeJEPAConfig
from jepa_pipeline.distributed import gather
from jepa_pipeline.losses.barlow_twins import barlow_twins
from jepa_pipeline.losses.contrastive import energies, info_nce, nt_xent, square_square
from jepa_pipeline.losses.sigreg import lejepa, random_slices
from jepa_pipeline.losses.vicreg import vicreg
from jepa_pipeline.methods.method import Method
from jepa_pipeline.models.backbone import Backbone
from jepa_pipeline.models.head import MLP
from jepa_pipeline.models.multicrop import by_size

Views = Sequence[Float[Tensor, "B C _ _"]]
Features = list[Float[Tensor, "B D"]]
Embeddings = Float[Tensor, "V S E"]
Losses = dict[str, Float[Tensor, ""]]

OBJECTIVES: dict[str, Callable[..., Losses]] = {
    "vicreg": vicreg,
    "barlow_twins": barlow_twins,
    "simclr": nt_xent,
    "info_nce": lambda embeddings, **settings: info_nce(energies(*embeddings), **settings),
    "square_square": lambda embeddings, **settings: square_square(energies(*embeddings), **settings),
}
"""The pure loss of each method of this kind; the keys of its configuration are the loss's keyword arguments."""


class JointEmbedding(Method):
    """energy(x, y) = distance(projector(encoder(x)), projector(encoder(y))) for two views x and y of one image."""

    def __init__(self, config: JointEmbeddingConfig, objective: Callable[..., Losses]) -> None:
        super().__init__()
        self.encoder = Backbone(config.encoder)
        self.projector = MLP(self.encoder.width, config.projector)
        self.embedding_width = config.projector.out
        self.objective = objective
        self.settings = config.model_dump(exclude={"name", *JointEmbeddingConfig.model_fields})

    def forward(self, batch: Batch) -> Output:
        features, embeddings = self.embed(batch.views)  # V of B D, V B E
        return Output(
            losses=self.loss(gather(embeddings, dim=1)),
            features=features[0].detach(),
            targets=embeddings[1].detach(),
            predictions=embeddings[0].detach(),
            metrics={},
        )

    def embed(self, views: Views) -> tuple[Features, Embeddings]:
        """Each view by itself, so that batch norm sees one view of each image."""
        features = [self.encoder(view) for view in views]
        return features, torch.stack([self.projector(view) for view in features])

    def loss(self, embeddings: Embeddings) -> Losses:
        """Of the whole batch, from all ranks."""
        return self.objective(embeddings, **self.settings)

    @property
    def kept_encoder(self) -> Backbone:
        return self.encoder

    @property
    def vector_width(self) -> int:
        return self.embedding_width


class LeJEPA(JointEmbedding):
    """Views near the center of the global ones, and embeddings that pass for isotropic normal ones in random directions."""

    def __init__(self, config: LeJEPAConfig) -> None:
        super().__init__(config, lejepa)
        self.config = config

    def embed(self, views: Views) -> tuple[Features, Embeddings]:
        """All views together, so that batch norm cannot hide a difference between large and small ones."""
        features = by_size(self.encoder, views)
        return features, self.projector(torch.cat(features)).unflatten(0, (len(features), -1))

    def loss(self, embeddings: Embeddings) -> Losses:
        slices = random_slices(self.embedding_width, self.config.slices, self.step_key, embeddings.device)
        return lejepa(embeddings, slices, self.config.weight, self.config.global_views)
