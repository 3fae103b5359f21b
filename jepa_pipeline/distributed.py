"""What many processes share. Each function here is the identity in a single process."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(part: Float[Tensor, "..."], dim: int = 0) -> Float[Tensor, "..."]:
    """Every process's part along a dimension, in order of rank; all parts are of one size.

    Differentiable: the gradient of a part is the sum over what all processes make of it. Where each computes the same loss of
    the whole, the mean of their parameters' gradients, which DDP takes, is then the gradient of that loss.
    """
    return Gather.apply(part, dim) if world_size() > 1 else part


def total(part: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The sum over all processes, differentiable in the same sense."""
    return Total.apply(part) if world_size() > 1 else part


class Total(Function):
    """All-reduce, there and back."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        whole = part.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return Total.forward(ctx, gradients[0])


class Gather(Function):
    """All-gather; back, the sum of all gradients, of which each process takes its part."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, dim: int) -> Tensor:
        ctx.dim, ctx.size = dim, part.shape[dim]
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = Total.forward(ctx, gradients[0])
        return whole.narrow(ctx.dim, dist.get_rank() * ctx.size, ctx.size), None
