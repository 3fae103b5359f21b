"""Arithmetic of the losses, in fp32 at least, whatever the precision of the networks."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def full(x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Cast half precision to fp32; return fp32 and float64 unchanged.

    Call it once for all uses of a tensor: the gradients of two casts would each be rounded to half before they are added.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def product(a: Float[Tensor, "M N"], b: Float[Tensor, "N K"]) -> Float[Tensor, "M K"]:
    """Return the matrix product in the precision of its factors, even under autocast, which would round them to half."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def unit(x: Float[Tensor, "*S E"]) -> Float[Tensor, "*S E"]:
    """Normalize vectors to length 1; those shorter than 1e-6 are divided by 1e-6, so that zero has a finite gradient."""
    return F.normalize(full(x), dim=-1, eps=1e-6)


def without_diagonal(matrix: Float[Tensor, "S S"]) -> Float[Tensor, "_ S"]:
    """Return a view of all entries except the diagonal, in row-major order, without a mask or a copy."""
    size = len(matrix)
    # after the first entry, every S + 1 entries end with one of the diagonal
    return matrix.flatten()[1:].unflatten(0, (size - 1, size + 1))[:, :-1]
