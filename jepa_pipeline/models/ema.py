"""The exponential moving average of a network's weights."""

from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

import jepa_pipeline._torchvision  # noqa: F401  # before timm
from jepa_pipeline.distributed import to_local
from timm.layers import DropPath

Network = TypeVar("Network", bound=nn.Module)


def copy_frozen(online: Network) -> Network:
    """Return a frozen fp32 copy of a network, without dropout and stochastic depth.

    In bf16 the average would not move: its steps are below the format's resolution.
    """
    target = deepcopy(online).float().requires_grad_(False)
    for module in target.modules():
        if isinstance(module, _DropoutNd):  # torch's own base of all dropout layers; there is no public one
            module.p = 0.0
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    return target


@torch.no_grad()
def update_ema(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """Set target = momentum * target + (1 - momentum) * online for all parameters; each process updates its own shard.

    Buffers are left alone: positions are constants, and batch norm statistics belong to each network. A target with batch norm
    runs in train mode, so that it normalizes by its own batches and collects their statistics, as in BYOL.
    """
    slow, fast = ([to_local(parameter) for parameter in network.parameters()] for network in (target, online))
    torch._foreach_lerp_(slow, fast, 1.0 - momentum)  # private, but one kernel for all parameters, as in torch.optim
