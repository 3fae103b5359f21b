"""Regularizers of a JEPA's representations, which prevent collapse (LeCun 2022, section 4.5.1)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa_pipeline.config.networks import HeadConfig
from jepa_pipeline.config.prediction import SIGRegularizer, VICRegularizer
from jepa_pipeline.distributed import gather
from jepa_pipeline.losses.sigreg import random_slices, sigreg
from jepa_pipeline.losses.vicreg import regularize
from jepa_pipeline.models.head import MLP


class Regularizer(nn.Module):
    """The base of all regularizers, and the one without terms."""

    def forward(self, representations: Sequence[Float[Tensor, "B _ D"]], seed: int) -> dict[str, Float[Tensor, ""]]:
        """Return named loss terms of the tokens of context and target, each a sample of its own.

        seed: seed of the random directions, the same on all ranks.
        """
        return {}


class VIC(Regularizer):
    """VICReg's variance and covariance (Bardes et al. 2022) of each sample, in the space of an expander if there is one."""

    def __init__(self, config: VICRegularizer, width: int) -> None:
        super().__init__()
        self.weights = config.weight * config.variance, config.weight * config.covariance
        self.expander = build_expander(width, config.expander)

    def forward(self, representations: Sequence[Float[Tensor, "B _ D"]], seed: int) -> dict[str, Float[Tensor, ""]]:
        return regularize([gather(self.expander(tokens.flatten(0, 1))) for tokens in representations], *self.weights)


class SIG(Regularizer):
    """SIGReg (Balestriero and LeCun 2025) of each sample, averaged over the samples.

    The statistic grows with the number of vectors. Dividing it by the tokens per image makes the weight mean the same for every
    grid, and the same as in LeJEPA, which has one vector per image.
    """

    def __init__(self, config: SIGRegularizer, width: int) -> None:
        super().__init__()
        self.weight, self.slices = config.weight, config.slices
        self.expander = build_expander(width, config.expander)

    def forward(self, representations: Sequence[Float[Tensor, "B _ D"]], seed: int) -> dict[str, Float[Tensor, ""]]:
        samples = [gather(self.expander(tokens.flatten(0, 1))) for tokens in representations]
        slices = random_slices(samples[0].shape[1], self.slices, seed, samples[0].device)
        pairs = zip(samples, representations, strict=True)
        return {"sigreg": self.weight * torch.stack([sigreg(sample, slices) / tokens.shape[1] for sample, tokens in pairs]).mean()}


def build_expander(width: int, config: HeadConfig | None) -> nn.Module:
    return nn.Identity() if config is None else MLP(width, config)
