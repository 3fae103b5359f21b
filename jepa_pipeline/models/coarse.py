"""Encoders of a stack above the first level, whose input are the tokens of the level below."""

import torch
from jaxtyping import Int
from torch import Tensor

from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.stack import CoarseEncoderConfig
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.patch_embed import PooledEmbed, TubeletEmbed

PATCH_EMBEDS = {"pool": PooledEmbed, "conv": TubeletEmbed}


def build_coarse_encoder(config: CoarseEncoderConfig, below: EncoderConfig) -> Encoder:
    """Return an encoder of the tokens of the level below as a clip "B C T H W" with one channel per dimension."""
    span = config.stride.time, config.stride.space, config.stride.space
    patch_embed = PATCH_EMBEDS[config.coarsening](span, below.size.embed_dim, config.embed_dim)
    return Encoder(config.resolve(below), patch_embed)


def tokens_below(index: Int[Tensor, "B K"], encoder: EncoderConfig) -> Int[Tensor, "B _"]:
    """Return the positions on the level below that the given tokens of an encoder cover, token by token."""
    _, rows, columns = encoder.clip_grid
    time, space, side = encoder.tubelet_size, encoder.patch_size, encoder.image_size
    offsets = torch.arange(time * space * space, device=index.device)
    step = index[..., None] // (rows * columns) * time + offsets // (space * space)
    row = index[..., None] // columns % rows * space + offsets // space % space
    column = index[..., None] % columns * space + offsets % space
    return ((step * side + row) * side + column).flatten(1)


def grid_below(encoder: EncoderConfig) -> tuple[int, int, int]:
    """Return time steps, rows and columns of the level below: the encoder's frames and "pixels"."""
    return encoder.frames, encoder.image_size, encoder.image_size
