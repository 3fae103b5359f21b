"""Fixed sine-cosine positions."""

import torch
from jaxtyping import Float
from torch import Tensor

BASE = 10_000.0


def sincos_1d(positions: Float[Tensor, " N"], dim: int) -> Float[Tensor, "N {dim}"]:
    """Sines, then cosines, of the positions at dim / 2 frequencies from 1 down to 1 / 10,000 (Vaswani et al. 2017, 3.5)."""
    frequencies = BASE ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = positions.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def sincos_2d(grid: tuple[int, int], dim: int) -> Float[Tensor, "N {dim}"]:
    """Positions of a row-major grid: the first half of the channels is the column, the second the row, as in I-JEPA and MAE."""
    rows, columns = grid
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    halves = [sincos_1d(axis.flatten().float(), dim // 2) for axis in (column, row)]
    return torch.cat(halves, dim=1)
