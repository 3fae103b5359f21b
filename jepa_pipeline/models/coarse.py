"""The levels of a stack above the first: encoders of what the level below represents."""

from math import prod

import torch
from jaxtyping import Int
from torch import Tensor

from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.stack import CoarseEncoderConfig
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.tokens import PooledEmbed, TubeletEmbed

COARSENINGS = {"pool": PooledEmbed, "conv": TubeletEmbed}


def coarse_encoder(config: CoarseEncoderConfig, below: EncoderConfig) -> Encoder:
    """An encoder whose clips are the tokens of the level below, a channel for each of their dimensions: "B C T H W"."""
    span = config.stride.time, config.stride.space, config.stride.space
    patch_embed = COARSENINGS[config.coarsening](span, below.size.embed_dim, config.embed_dim)
    return Encoder(config.on(below), patch_embed)


def under(cells: Int[Tensor, "B K"], encoder: EncoderConfig) -> Int[Tensor, "B _"]:
    """The tokens of the level below for which cells of an encoder's grid stand, cell by cell."""
    _, rows, columns = encoder.clip_grid
    time, space, side = encoder.tubelet_size, encoder.patch_size, encoder.image_size
    offsets = torch.arange(time * space * space, device=cells.device)
    step = cells[..., None] // (rows * columns) * time + offsets // (space * space)
    row = cells[..., None] // columns % rows * space + offsets // space % space
    column = cells[..., None] % columns * space + offsets % space
    return ((step * side + row) * side + column).flatten(1)


def count_below(encoder: EncoderConfig) -> int:
    """Tokens of the level below."""
    return prod(grid_below(encoder))


def grid_below(encoder: EncoderConfig) -> tuple[int, int, int]:
    """Time steps, rows and columns of the level below."""
    return encoder.frames, encoder.image_size, encoder.image_size
