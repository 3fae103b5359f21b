"""Methods that embed several views of an image and compare the embeddings by a loss that prevents collapse."""

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
from jepa_pipeline.models.head import MLP
from jepa_pipeline.models.interface import BaseEncoder
from jepa_pipeline.models.multicrop import forward_multicrop

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
"""Loss of each method by its name; its keyword arguments are the keys of the method's configuration."""


class JointEmbedding(Method):
    """energy(x, y) = distance(projector(encoder(x)), projector(encoder(y))) for two views x and y of one image.

    Args:
        config: sizes of the projector, and keyword arguments of the loss.
        encoder: the encoder that is trained.
        objective: loss of the embeddings of the global batch.
    """

    def __init__(self, config: JointEmbeddingConfig, encoder: BaseEncoder, objective: Callable[..., Losses]) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = MLP(self.encoder.width, config.projector)
        self.embedding_width = config.projector.out
        self.objective = objective
        self.settings = config.model_dump(exclude={"name", *JointEmbeddingConfig.model_fields})

    def forward(self, batch: Batch, step: int, seed: int) -> Output:
        features, embeddings = self.embed(batch.views)  # V of B D, V B E
        return Output(
            losses=self.compute_loss(gather(embeddings, dim=1), seed),
            features=features[0].detach(),
            targets=embeddings[1].detach(),
            predictions=embeddings[0].detach(),
            metrics={},
        )

    def embed(self, views: Views) -> tuple[Features, Embeddings]:
        """Return features and embeddings of all views; batch norm sees each view in a batch of its own."""
        features = [self.encoder(view) for view in views]
        return features, torch.stack([self.projector(view_features) for view_features in features])

    def compute_loss(self, embeddings: Embeddings, seed: int) -> Losses:
        """Return the loss of the embeddings of the global batch."""
        return self.objective(embeddings, **self.settings)


class LeJEPA(JointEmbedding):
    """LeJEPA (Balestriero and LeCun 2025): views close to the center of the global ones, and normally distributed embeddings."""

    def __init__(self, config: LeJEPAConfig, encoder: BaseEncoder) -> None:
        super().__init__(config, encoder, lejepa)
        self.config = config

    def embed(self, views: Views) -> tuple[Features, Embeddings]:
        """Return features and embeddings of all views."""
        # one batch for all: with statistics of their own, batch norm would hide a difference between global and local views
        features = forward_multicrop(self.encoder, views)
        return features, self.projector(torch.cat(features)).unflatten(0, (len(features), -1))

    def compute_loss(self, embeddings: Embeddings, seed: int) -> Losses:
        slices = random_slices(self.embedding_width, self.config.slices, seed, embeddings.device)
        return lejepa(embeddings, slices, self.config.weight, self.config.global_views)
