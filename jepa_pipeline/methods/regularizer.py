"""What keeps information in the representations of a JEPA, beside its prediction error (LeCun 2022, section 4.5.1)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa_pipeline.config.methods import NoRegularizer, SIGRegularizer, VICRegularizer
from jepa_pipeline.config.networks import HeadConfig
from jepa_pipeline.distributed import gather
from jepa_pipeline.losses.sigreg import random_slices, sigreg
from jepa_pipeline.losses.vicreg import regularize
from jepa_pipeline.models.head import MLP


class Regularizer(nn.Module):
    """None: no terms."""

    def forward(self, representations: Sequence[Float[Tensor, "_ D"]], step: int) -> dict[str, Float[Tensor, ""]]:
        """Named terms of samples of vectors, each sample by itself; step is the key of what is drawn."""
        return {}


class VIC(Regularizer):
    """Variance and covariance of each sample, seen through an expander where there is one."""

    def __init__(self, config: VICRegularizer, width: int) -> None:
        super().__init__()
        self.weights = config.weight * config.variance, config.weight * config.covariance
        self.expander = build_expander(width, config.expander)

    def forward(self, representations: Sequence[Float[Tensor, "_ D"]], step: int) -> dict[str, Float[Tensor, ""]]:
        return regularize([gather(self.expander(vectors)) for vectors in representations], *self.weights)


class SIG(Regularizer):
    """Distance of each sample from an isotropic normal distribution, averaged over the samples."""

    def __init__(self, config: SIGRegularizer, width: int) -> None:
        super().__init__()
        self.weight, self.slices = config.weight, config.slices
        self.expander = build_expander(width, config.expander)

    def forward(self, representations: Sequence[Float[Tensor, "_ D"]], step: int) -> dict[str, Float[Tensor, ""]]:
        samples = [gather(self.expander(vectors)) for vectors in representations]
        slices = random_slices(samples[0].shape[1], self.slices, step, samples[0].device)
        return {"sigreg": self.weight * torch.stack([sigreg(sample, slices) for sample in samples]).mean()}


def build_expander(width: int, config: HeadConfig | None) -> nn.Module:
    return nn.Identity() if config is None else MLP(width, config)


def build_regularizer(config: NoRegularizer | VICRegularizer | SIGRegularizer, width: int) -> Regularizer:
    """The regulariser a configuration names, for representations of a width."""
    match config:
        case NoRegularizer():
            return Regularizer()
        case VICRegularizer():
            return VIC(config, width)
        case SIGRegularizer():
            return SIG(config, width)
