"""What keeps information in the representations of a JEPA, beside its prediction error (LeCun 2022, section 4.5.1)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa_pipeline.config.jepa import NoRegularizer, SIGRegularizer, VICRegularizer
from jepa_pipeline.config.networks import HeadConfig
from jepa_pipeline.distributed import gather
from jepa_pipeline.losses.sigreg import random_slices, sigreg
from jepa_pipeline.losses.vicreg import regularize
from jepa_pipeline.models.head import MLP


class Regularizer(nn.Module):
    """None: no terms."""

    def forward(self, representations: Sequence[Float[Tensor, "B _ D"]], key: int) -> dict[str, Float[Tensor, ""]]:
        """Named terms of the tokens of context and target, each of them a sample by itself; key is the seed of what is drawn."""
        return {}


class VIC(Regularizer):
    """Variance and covariance of each sample, seen through an expander where there is one."""

    def __init__(self, config: VICRegularizer, width: int) -> None:
        super().__init__()
        self.weights = config.weight * config.variance, config.weight * config.covariance
        self.expander = build_expander(width, config.expander)

    def forward(self, representations: Sequence[Float[Tensor, "B _ D"]], key: int) -> dict[str, Float[Tensor, ""]]:
        return regularize([gather(self.expander(tokens.flatten(0, 1))) for tokens in representations], *self.weights)


class SIG(Regularizer):
    """Distance of each sample from an isotropic normal distribution, averaged over the samples.

    The statistic grows with the number of vectors. It is divided by the tokens of an image, so that its weight means the same on
    any grid, and what it means for LeJEPA's one vector an image.
    """

    def __init__(self, config: SIGRegularizer, width: int) -> None:
        super().__init__()
        self.weight, self.slices = config.weight, config.slices
        self.expander = build_expander(width, config.expander)

    def forward(self, representations: Sequence[Float[Tensor, "B _ D"]], key: int) -> dict[str, Float[Tensor, ""]]:
        samples = [gather(self.expander(tokens.flatten(0, 1))) for tokens in representations]
        slices = random_slices(samples[0].shape[1], self.slices, key, samples[0].device)
        pairs = zip(samples, representations, strict=True)
        return {"sigreg": self.weight * torch.stack([sigreg(sample, slices) / tokens.shape[1] for sample, tokens in pairs]).mean()}


def build_expander(width: int, config: HeadConfig | None) -> nn.Module:
    return nn.Identity() if config is None else MLP(width, config)


def build_regularizer(config: NoRegularizer | VICRegularizer | SIGRegularizer, width: int) -> Regularizer:
    """The regularizer a configuration names, for representations of a width."""
    match config:
        case NoRegularizer():
            return Regularizer()
        case VICRegularizer():
            return VIC(config, width)
        case SIGRegularizer():
            return SIG(config, width)
