"""The perceptron on top of an encoder: projector, predictor or expander."""

from jaxtyping import Float
from torch import Tensor, nn

from jepa_pipeline.config.networks import HeadConfig


class MLP(nn.Module):
    """Linear, batch norm and ReLU per hidden layer, then linear, and a batch norm without affine parameters if configured.

    A linear layer before a batch norm has no bias, which the norm would subtract.
    """

    def __init__(self, in_width: int, config: HeadConfig) -> None:
        super().__init__()
        layers, width = list[nn.Module](), in_width
        for hidden in config.hidden:
            layers += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
            width = hidden
        layers.append(nn.Linear(width, config.out, bias=config.last_bias and not config.last_norm))
        if config.last_norm:
            layers.append(nn.BatchNorm1d(config.out, affine=False))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Float[Tensor, "S D"]) -> Float[Tensor, "S E"]:
        """Return the embedding of each feature vector."""
        return self.layers(features)
