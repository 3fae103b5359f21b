"""The optimizer, and the guard that keeps a broken step away from the weights."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

import jepa_pipeline._torchvision  # noqa: F401  # before timm
from jepa_pipeline.config.optim import AdamWConfig, LARSConfig, OptimConfig, SGDConfig
from jepa_pipeline.distributed import is_dealt, total
from timm.optim.lars import Lars


def build_optimizer(network: nn.Module, config: OptimConfig) -> Optimizer:
    """The optimizer of everything that trains; norms and biases are not decayed (`decay: False`).

    AdamW and SGD take their step in one fused pass, SGD not where weights are dealt out. LARS is timm's: of a weight w with
    gradient g it subtracts the rate times the momentum of r (g + decay w), with the trust ratio
    r = trust_coefficient |w| / (|g| + decay |w| + 1e-8), and 1 where |w| or |g| is 0; norms and biases have r = 1. That is the
    ratio of the paper (You et al. 2017, equation 6); the releases of VICReg, Barlow Twins and BYOL divide by |g + decay w|
    instead, which the decays they train with, near 1e-6, make the same but for a weight whose |g| is as small as decay |w|. The
    paper's momentum holds steps with their rates in them; here, as in these releases, each step has the rate of its own moment.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    decayed = {"params": [p for p in parameters if p.ndim > 1], "decay": True, "lr_scale": 1.0}
    others = {"params": [p for p in parameters if p.ndim <= 1], "decay": False, "lr_scale": 1.0}
    rate = config.lr * config.lr_factor
    match config:
        case AdamWConfig():
            return AdamW([decayed, others], lr=rate, betas=config.betas, eps=config.eps, weight_decay=0.0, fused=True)
        case LARSConfig():
            decayed["always_adapt"] = True  # under no decay too
            others["lr_scale"] = 1.0 if config.lr_biases is None else config.lr_biases / config.lr
            momentum: Any = config.momentum  # which timm types as a whole number
            return Lars([decayed, others], lr=rate, momentum=momentum, trust_coeff=config.trust_coefficient, foreach=True)
        case SGDConfig():
            fused = not any(is_dealt(parameter) for parameter in parameters)  # torch has no fused SGD for those
            return SGD([decayed, others], lr=rate, momentum=config.momentum, fused=fused)


def set_rates(optimizer: Optimizer, lr: float, weight_decay: float) -> None:
    """Set the rates of the coming step; a group's `lr_scale` is its own rate as a multiple of the schedule's."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
        group["weight_decay"] = weight_decay if group["decay"] else 0.0


class FiniteGuard(nn.Module):
    """Remembers on the device the first step whose loss or gradient was not finite, and blocks every update from then on.

    The host reads it only where it waits for the device anyway, so that the step itself never waits.
    """

    broken_step: Tensor
    here: Tensor
    """Whether it was this process's share of the step that was not."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("broken_step", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("here", torch.zeros((), dtype=torch.bool), persistent=False)

    @torch.no_grad()
    def watch(self, step: int, loss: Tensor, gradient_norm: Tensor, optimizer: Optimizer) -> None:
        """Look at a step before it is taken. A fused optimizer skips its update where `found_inf` is not zero."""
        broken = ~(torch.isfinite(loss) & torch.isfinite(gradient_norm))
        self.here.logical_or_(~torch.isfinite(loss) & (self.broken_step == 0))
        broken = total(broken.float()) > 0  # for all processes, or they would go apart
        self.broken_step.add_((broken & (self.broken_step == 0)) * step)
        broken = self.broken_step > 0
        if optimizer.defaults.get("fused"):
            optimizer.found_inf = broken.float()  # pyright: ignore[reportAttributeAccessIssue]
        else:
            block(optimizer, broken)


def block(optimizer: Optimizer, broken: Tensor) -> None:
    """Where `broken`, a boolean on the device, make the coming step one of rate 0 along gradients of 0.

    Weights stay as they are, bit for bit; momenta decay, but never hold what is not finite.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * ~broken
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(broken, 0.0)
