"""Fixed sine-cosine position embeddings, which are added to the tokens."""

from math import ceil, prod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

import jepa_pipeline._torchvision  # noqa: F401  # before timm
from jepa_pipeline.config.grid import Grid
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.models.frequencies import position_frequencies
from timm.layers import resample_abs_pos_embed


def sincos(config: EncoderConfig, dim: int) -> Float[Tensor, "N {dim}"]:
    """Return the positions of an encoder's grid in `dim` channels: the encoder's width or that of its predictor."""
    if config.positions == "sincos_uniform":
        return sincos_uniform(config.clip_grid, dim)
    return sincos_3d(config.clip_grid, dim) if config.modality.has_time else sincos_2d(config.grid, dim)


def sincos_1d(positions: Float[Tensor, " N"], dim: int) -> Float[Tensor, "N {dim}"]:
    """Return sines, then cosines, at dim / 2 frequencies from 1 down to 1 / 10,000 (Vaswani et al. 2017, section 3.5)."""
    angles = positions.double()[:, None] * position_frequencies(dim)
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def sincos_2d(grid: tuple[int, int], dim: int) -> Float[Tensor, "N {dim}"]:
    """Return the positions of a row-major grid: the column in the first half of the channels, then the row (I-JEPA, MAE)."""
    rows, columns = grid
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    halves = [sincos_1d(axis.flatten().float(), dim // 2) for axis in (column, row)]
    return torch.cat(halves, dim=1)


def sincos_3d(grid: Grid, dim: int) -> Float[Tensor, "N {dim}"]:
    """Return the positions of a grid in space and time: time in half of the channels, row and column in a quarter each.

    `dim` must be a multiple of 8.
    """
    return sincos_axes(grid, (dim // 2, dim // 4, dim // 4))


def sincos_uniform(grid: Grid, dim: int) -> Float[Tensor, "N {dim}"]:
    """Return the positions of V-JEPA: time, row and column in equally many channels, the excess cut off at the end."""
    third = 2 * ceil(dim / 6)
    return sincos_axes(grid, (third, third, third))[:, :dim].contiguous()


def sincos_axes(grid: Grid, dims: tuple[int, int, int]) -> Float[Tensor, "N _"]:
    """Return time, row and column concatenated, each in its own number of channels."""
    axes = torch.meshgrid(*(torch.arange(steps) for steps in grid), indexing="ij")
    return torch.cat([sincos_1d(axis.flatten().float(), dim) for axis, dim in zip(axes, dims, strict=True)], dim=1)


def resize_positions(positions: Float[Tensor, "1 _ D"], old: Grid, new: Grid, has_time: bool) -> Float[Tensor, "1 _ D"]:
    """Return the positions of another grid of an image, or of a clip if there is time."""
    if has_time:
        return resize_pos_embed(positions, old, new)
    # timm's own resampling for images: an exported encoder gives the same tokens at every size.
    return resample_abs_pos_embed(positions, list(new[1:]), list(old[1:]), num_prefix_tokens=0)


def resize_pos_embed(positions: Float[Tensor, "1 _ D"], old: Grid, new: Grid) -> Float[Tensor, "1 _ D"]:
    """Return the positions of clips of another length or size: the first ones for shorter clips, else interpolated."""
    if is_prefix(new, old):
        return positions[:, : prod(new)]
    volume = positions.float().unflatten(1, old).permute(0, 4, 1, 2, 3)  # 1 D T H W
    scaled = F.interpolate(volume, size=new, mode="trilinear", align_corners=False)
    return scaled.flatten(2).transpose(1, 2).to(positions.dtype)


def is_prefix(grid: Grid, longer: Grid) -> bool:
    """Return whether the tokens of a grid are the first ones of another."""
    return grid[1:] == longer[1:] and grid[0] <= longer[0]
