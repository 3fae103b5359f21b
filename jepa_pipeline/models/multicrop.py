"""Views of several sizes through one network."""

from collections.abc import Sequence
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor, nn


def forward_multicrop(network: nn.Module, views: Sequence[Float[Tensor, "B C _ _"]]) -> list[Float[Tensor, "B D"]]:
    """Return the features of every view; adjacent views of one size are one batch, as in SwAV and DINO."""
    groups = [list(group) for _, group in groupby(views, key=lambda view: view.shape)]
    return [features for group in groups for features in network(torch.cat(group)).chunk(len(group))]
