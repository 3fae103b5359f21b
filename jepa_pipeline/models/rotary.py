"""Rotary positions (Su et al. 2021) along time, rows and columns: every attention rotates its queries and keys."""

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from jepa_pipeline.config.grid import Grid
from jepa_pipeline.models.frequencies import position_frequencies


def rope_table(
    grid: Grid, head_dim: int, tiled: bool, device: torch.device | None = None, side: int | None = None
) -> Float[Tensor, "N {2*head_dim}"]:
    """Return sines, then cosines, of the angles that rotate a head's channels at each token of a grid, in fp32.

    The channels form three equal parts of even size, for time, row and column, and a rest that is not rotated. A part of d
    channels has d / 2 frequencies from 1 down; the angle of a token is its index times the frequency. timm rotates adjacent
    channels as a pair, so both need the same angle: then products of queries and keys depend only on the distance of their tokens.

    Args:
        grid: time steps, rows and columns of tokens.
        head_dim: channels per attention head.
        tiled: as in V-JEPA 2's release (Assran et al. 2025), each part repeats all its angles instead of each angle, while
            adjacent channels are still rotated as a pair. The two channels of a pair then have different angles and products
            depend on absolute positions too, but the released weights were trained that way.
        device: where the table is computed.
        side: rows and columns of a grid to which those of every grid are stretched or shrunk, as in V-JEPA 2.1; None: the angle
            of a token is its index, whatever the size of the grid.
    """
    dim = 2 * (head_dim // 3 // 2)
    scales = [1.0] + [1.0 if side is None or steps == 1 else (side - 1) / (steps - 1) for steps in grid[1:]]
    time, row, column = (axis_angles(steps, dim, tiled, device, scale) for steps, scale in zip(grid, scales, strict=True))
    parts = [time[:, None, None], row[None, :, None], column[None, None], time.new_zeros(1, 1, 1, head_dim - 3 * dim)]
    angles = torch.cat([part.expand(*grid, -1) for part in parts], dim=-1).flatten(0, 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()


def axis_angles(steps: int, dim: int, tiled: bool, device: torch.device | None, scale: float) -> Float64[Tensor, "{steps} {dim}"]:
    """Return the angles of the channels of one axis at each of its steps, which lie `scale` apart."""
    positions = torch.arange(steps, dtype=torch.float64, device=device) * scale
    angles = positions[:, None] * position_frequencies(dim, device)
    return angles.tile(2) if tiled else angles.repeat_interleave(2, dim=1)


def gather_rope(rope: Float[Tensor, "N E"], index: Int[Tensor, "B K"]) -> Float[Tensor, "B 1 K E"]:
    """Return the rows of a rotary table at each sample's own indices, the same for all heads."""
    return rope[index][:, None]
