"""The perceptron on top of an encoder: projector, predictor or expander."""

from jaxtyping import Float
from torch import Tensor, nn

from jepa_pipeline.config.networks import HeadConfig


class MLP(nn.Module):
    """Linear, batch norm and ReLU for each hidden layer, then linear; a batch norm without scale and shift may end it.

    A linear layer under a batch norm has no bias: the norm would take it away again.
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
        """The embedding of each feature vector."""
        return self.layers(features)
