"""Fixed sine-cosine positions, which are added to the tokens."""

from math import ceil, prod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from jepa_pipeline.config.networks import EncoderConfig

BASE = 10_000.0
Grid = tuple[int, int, int]


def sincos(config: EncoderConfig, dim: int) -> Float[Tensor, "N {dim}"]:
    """Positions of an encoder's grid in so many channels, its own or its predictor's."""
    if config.positions == "sincos_uniform":
        return sincos_uniform(config.clip_grid, dim)
    return sincos_3d(config.clip_grid, dim) if config.clips else sincos_2d(config.grid, dim)


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


def sincos_3d(grid: Grid, dim: int) -> Float[Tensor, "N {dim}"]:
    """Positions of a grid in space and time: half of the channels is time, a quarter the row, a quarter the column.

    The width is a multiple of 8.
    """
    return by_axis(grid, (dim // 2, dim // 4, dim // 4))


def sincos_uniform(grid: Grid, dim: int) -> Float[Tensor, "N {dim}"]:
    """Positions in which time, row and column have as many channels each, those too many cut off at the end (V-JEPA)."""
    third = 2 * ceil(dim / 6)
    return by_axis(grid, (third, third, third))[:, :dim].contiguous()


def by_axis(grid: Grid, dims: tuple[int, int, int]) -> Float[Tensor, "N _"]:
    """Time, row and column beside one another, each in so many channels."""
    axes = torch.meshgrid(*(torch.arange(steps) for steps in grid), indexing="ij")
    return torch.cat([sincos_1d(axis.flatten().float(), dim) for axis, dim in zip(axes, dims, strict=True)], dim=1)


def resize(positions: Float[Tensor, "1 _ D"], old: Grid, new: Grid) -> Float[Tensor, "1 _ D"]:
    """Positions of a clip of another length or size: a shorter one's are the first, all others' lie between those there are."""
    if begins(new, old):
        return positions[:, : prod(new)]
    volume = positions.float().unflatten(1, old).permute(0, 4, 1, 2, 3)  # 1 D T H W
    scaled = F.interpolate(volume, size=new, mode="trilinear", align_corners=False)
    return scaled.flatten(2).transpose(1, 2).to(positions.dtype)


def begins(grid: Grid, other: Grid) -> bool:
    """Whether the places of one grid are the first ones of another."""
    return grid[1:] == other[1:] and grid[0] <= other[0]
