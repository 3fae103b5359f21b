"""Rotary positions (Su et al. 2021) along time, rows and columns: in every attention, queries and keys are turned."""

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from jepa_pipeline.models.positions import BASE, Grid


def rope_table(grid: Grid, head_dim: int, tiled: bool, device: torch.device | None = None) -> Float[Tensor, "N {2*head_dim}"]:
    """Sines, then cosines, of the angles by which a head's channels are turned at each place of a row-major grid, in fp32.

    The channels fall into three equal parts of an even number, for time, row and column, and a rest that is not turned. A part
    of d channels has d / 2 frequencies from 1 down; a place's angle is its index, whatever the size of the grid, times the
    frequency. In attention timm turns adjacent channels as a pair, so that both need one angle: then products of queries and
    keys depend on the distance of their places alone.

    tiled: as V-JEPA 2 was released (Assran et al. 2025), each part repeats its angles as a whole, while adjacent channels are
    turned as a pair all the same. Two channels of a pair then have different angles and the above is lost, but its weights
    were trained so.
    """
    dim = 2 * (head_dim // 3 // 2)
    time, row, column = (axis_angles(steps, dim, tiled, device) for steps in grid)
    parts = [time[:, None, None], row[None, :, None], column[None, None], time.new_zeros(1, 1, 1, head_dim - 3 * dim)]
    angles = torch.cat([part.expand(*grid, -1) for part in parts], dim=-1).flatten(0, 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()


def axis_angles(steps: int, dim: int, tiled: bool, device: torch.device | None) -> Float64[Tensor, "{steps} {dim}"]:
    """Angles of the channels of one axis at each of its steps."""
    frequencies = BASE ** -(torch.arange(dim // 2, dtype=torch.float64, device=device) / (dim / 2))
    angles = torch.arange(steps, dtype=torch.float64, device=device)[:, None] * frequencies
    return angles.tile(2) if tiled else angles.repeat_interleave(2, dim=1)


def take_rope(rope: Float[Tensor, "N E"], index: Int[Tensor, "B K"]) -> Float[Tensor, "B 1 K E"]:
    """The angles of each sample's own choice of tokens, the same for all heads."""
    return rope[index][:, None]
