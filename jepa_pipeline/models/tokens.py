"""Functions of tokens "B N D" in the row-major order of their grid."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from jepa_pipeline.config.grid import Grid


def tokens_to_clip(tokens: Float[Tensor, "B N D"], grid: Grid) -> Float[Tensor, "B D T H W"]:
    """Return the tokens of a grid as a clip with one channel per dimension."""
    return tokens.unflatten(1, grid).movedim(-1, 1)


def scatter_tokens(tokens: Float[Tensor, "B K D"], index: Int[Tensor, "B K"], count: int) -> Float[Tensor, "B {count} D"]:
    """Return `count` tokens per sample: the given ones at their indices, zeros elsewhere."""
    empty = tokens.new_zeros(len(tokens), count, tokens.shape[-1])
    return empty.scatter(1, index[..., None].expand_as(tokens), tokens)


def layer_norm(tokens: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
    """Return each token with mean 0 and variance 1 over its channels, in fp32 or better: what predictions are compared with."""
    return F.layer_norm(tokens.to(torch.promote_types(tokens.dtype, torch.float32)), tokens.shape[-1:])


def apply_masks(tokens: Float[Tensor, "B N D"], index: Int[Tensor, "B *K"]) -> Float[Tensor, "B *K D"]:
    """Return the tokens of each sample at that sample's own indices."""
    flat = index.flatten(1)
    chosen = tokens.gather(1, flat[..., None].expand(-1, -1, tokens.shape[-1]))
    return chosen.unflatten(1, index.shape[1:])
