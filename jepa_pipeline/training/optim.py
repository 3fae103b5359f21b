"""The optimiser, and the guard that keeps a broken step away from the weights."""

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from jepa_pipeline.config.optim import OptimConfig


def build_optimizer(network: nn.Module, config: OptimConfig) -> AdamW:
    """AdamW over everything that trains, in one fused pass; norms and biases are not decayed (`decay: False`)."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "decay": True},
        {"params": [p for p in parameters if p.ndim <= 1], "decay": False},
    ]
    return AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=0.0, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Set the rates of the coming step."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["weight_decay"] = weight_decay if group["decay"] else 0.0


class FiniteGuard(nn.Module):
    """Remembers on the device the first step whose loss or gradient was not finite, and blocks every update from then on.

    The host reads it only where it waits for the device anyway, so that the step itself never waits.
    """

    broken_step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("broken_step", torch.zeros((), dtype=torch.int64), persistent=False)

    @torch.no_grad()
    def watch(self, step: int, loss: Tensor, gradient_norm: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Look at a step before it is taken. A fused optimiser skips its update where `found_inf` is not zero."""
        finite = torch.isfinite(loss) & torch.isfinite(gradient_norm)
        self.broken_step.add_((~finite & (self.broken_step == 0)) * step)
        optimizer.found_inf = (self.broken_step > 0).float()  # pyright: ignore[reportAttributeAccessIssue]
