"""The target: a slow average of the encoder that is trained."""

from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

import jepa_pipeline._torchvision  # noqa: F401  # before timm
from jepa_pipeline.distributed import local
from timm.layers import DropPath

Network = TypeVar("Network", bound=nn.Module)


def make_target(online: Network) -> Network:
    """A frozen fp32 copy in which nothing is dropped. In bf16 an average this slow would not move: its steps are below the format's
    resolution.
    """
    target = deepcopy(online).float().requires_grad_(False)
    for module in target.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    return target


@torch.no_grad()
def update_ema(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """Target <- momentum * target + (1 - momentum) * online, over the parameters; dealt out to several processes, each its part.

    Buffers are left alone: positions are constants, and the statistics of batch norms are each network's own. A target with batch
    norm runs in train mode, so that it is normalized by its own batches and gathers their statistics, as BYOL's does.
    """
    slow, fast = ([local(parameter) for parameter in network.parameters()] for network in (target, online))
    torch._foreach_lerp_(slow, fast, 1.0 - momentum)
