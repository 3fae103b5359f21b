"""The optimizer, and the guard that keeps steps that are not finite away from the weights."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

import jepa_pipeline._torchvision  # noqa: F401  # before timm
from jepa_pipeline.config.optim import AdamWConfig, LARSConfig, OptimConfig, SGDConfig
from jepa_pipeline.distributed import all_reduce, is_sharded
from timm.optim.lars import Lars

TRUST_COEFFICIENT = 1e-3
"""LARS step at learning rate 1 over the norm of the weight, as in the releases of VICReg, Barlow Twins and BYOL."""


def build_optimizer(network: nn.Module, config: OptimConfig) -> Optimizer:
    """Return the optimizer of all trainable parameters, in two groups: weights, and undecayed norms and biases.

    LARS is timm's: for a weight w with gradient g it subtracts the learning rate times the momentum of r (g + decay w), with
    the trust ratio r = TRUST_COEFFICIENT |w| / (|g| + decay |w| + 1e-8), and r = 1 if |w| or |g| is 0; norms and biases have
    r = 1. This is the ratio of the paper (You et al. 2017, equation 6). The releases of VICReg, Barlow Twins and BYOL divide
    by |g + decay w| instead, which is nearly the same at their decays near 1e-6. The paper's momentum buffer includes the
    learning rates of past steps; here, as in these releases, the current learning rate multiplies the whole buffer.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    decayed = {"params": [p for p in parameters if p.ndim > 1], "decay": True, "lr_scale": 1.0}
    others = {"params": [p for p in parameters if p.ndim <= 1], "decay": False, "lr_scale": 1.0}
    lr = config.lr * config.lr_factor
    match config:
        case AdamWConfig():
            return AdamW([decayed, others], lr=lr, betas=config.betas, eps=config.eps, weight_decay=0.0, fused=True)
        case LARSConfig():
            decayed["always_adapt"] = True  # timm skips the trust ratio of groups without weight decay otherwise
            others["lr_scale"] = 1.0 if config.lr_biases is None else config.lr_biases / config.lr
            momentum: Any = config.momentum  # which timm annotates as int
            return Lars([decayed, others], lr=lr, momentum=momentum, trust_coeff=TRUST_COEFFICIENT, foreach=True)
        case SGDConfig():
            fused = not any(is_sharded(parameter) for parameter in parameters)  # torch has no fused SGD for DTensors
            return SGD([decayed, others], lr=lr, momentum=config.momentum, fused=fused)


def set_rates(optimizer: Optimizer, lr: float, weight_decay: float) -> None:
    """Set the rates of the next step; `lr_scale` of a group is its learning rate as a multiple of the schedule's."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
        group["weight_decay"] = weight_decay if group["decay"] else 0.0


class FiniteGuard(nn.Module):
    """Records on the device the first step whose loss or gradient is not finite, and blocks all updates from that step on.

    The host reads it only where it waits for the device anyway, so that a step itself never waits.

    Attributes:
        broken_step: the first step that was not finite on any rank; 0 if there is none.
        broken_here: whether the loss of this rank was not finite in that step.
    """

    broken_step: Tensor
    broken_here: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("broken_step", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("broken_here", torch.zeros((), dtype=torch.bool), persistent=False)

    @torch.no_grad()
    def check(self, step: int, loss: Tensor, gradient_norm: Tensor, optimizer: Optimizer) -> None:
        """Check a step before the optimizer applies it. All ranks must call this."""
        broken = ~(torch.isfinite(loss) & torch.isfinite(gradient_norm))
        self.broken_here.logical_or_(~torch.isfinite(loss) & (self.broken_step == 0))
        broken = all_reduce(broken.float()) > 0  # on all ranks, or their weights would diverge
        self.broken_step.add_((broken & (self.broken_step == 0)) * step)
        broken = self.broken_step > 0
        if optimizer.defaults.get("fused"):
            # the flag through which torch's GradScaler makes fused kernels skip an update without a synchronization
            optimizer.found_inf = broken.float()  # pyright: ignore[reportAttributeAccessIssue]
        else:
            cancel_update(optimizer, broken)


def cancel_update(optimizer: Optimizer, broken: Tensor) -> None:
    """Make the next step one of learning rate 0 along zero gradients if `broken`, a boolean on the device.

    Weights stay the same bit for bit; momentum buffers decay but stay finite.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * ~broken
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(broken, 0.0)
