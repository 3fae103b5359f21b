"""What the losses compute with: at least fp32, whatever the networks ran in."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def full(x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Half precision as fp32; fp32 and float64 as they are.

    Once for all uses of a tensor: the gradients of two casts are each rounded to half before they are added.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def product(a: Float[Tensor, "M N"], b: Float[Tensor, "N K"]) -> Float[Tensor, "M K"]:
    """The matrix product in the precision of its factors, inside autocast too, which would round them to half."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def unit(x: Float[Tensor, "*S E"]) -> Float[Tensor, "*S E"]:
    """Vectors of length one. A vector shorter than 1e-6 is only divided by 1e-6, so that zero has a finite gradient."""
    return F.normalize(full(x), dim=-1, eps=1e-6)


def without_diagonal(matrix: Float[Tensor, "S S"]) -> Float[Tensor, "_ S"]:
    """A view of all entries but the diagonal, in row-major order: no mask, no copy, nothing subtracted again.

    Behind its first entry a matrix is rows of S + 1 entries that end with one of the diagonal.
    """
    size = len(matrix)
    return matrix.flatten()[1:].unflatten(0, (size - 1, size + 1))[:, :-1]
