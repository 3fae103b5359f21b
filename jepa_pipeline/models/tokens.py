"""Tokens out of clips, choosing tokens by their index, and the initialization every transformer here shares."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_pipeline.models.positions import Grid


class TubeletEmbed(nn.Module):
    """Tokens of a clip: a linear map of each tubelet, so many frames of a patch (Arnab et al. 2021).

    span: frames, height and width of a tubelet, in frames and pixels; channels: of the clip.
    """

    def __init__(self, span: tuple[int, int, int], channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels, dim, kernel_size=span, stride=span)

    def forward(self, clip: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B N D"]:
        """Row-major: time, then rows, then columns."""
        return self.proj(clip).flatten(2).transpose(1, 2)


class PooledEmbed(nn.Module):
    """Tokens of a clip: a linear map of the mean over each tubelet."""

    def __init__(self, span: tuple[int, int, int], channels: int, dim: int) -> None:
        super().__init__()
        self.span = span
        self.proj = nn.Linear(channels, dim)

    def forward(self, clip: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B N D"]:
        """Row-major: time, then rows, then columns."""
        return self.proj(F.avg_pool3d(clip, self.span).flatten(2).transpose(1, 2))


def as_clip(tokens: Float[Tensor, "B N D"], grid: Grid) -> Float[Tensor, "B D T H W"]:
    """The tokens of a grid as a clip of as many channels as they are wide."""
    return tokens.unflatten(1, grid).movedim(-1, 1)


def placed(tokens: Float[Tensor, "B K D"], index: Int[Tensor, "B K"], count: int) -> Float[Tensor, "B {count} D"]:
    """Tokens at their places among so many, the others 0."""
    empty = tokens.new_zeros(len(tokens), count, tokens.shape[-1])
    return empty.scatter(1, index[..., None].expand_as(tokens), tokens)


def normalized(tokens: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
    """Each token with mean 0 and deviation 1 over its channels, in fp32 at least: what predictions are compared in."""
    return F.layer_norm(tokens.to(torch.promote_types(tokens.dtype, torch.float32)), tokens.shape[-1:])


def take(tokens: Float[Tensor, "B N D"], index: Int[Tensor, "B *K"]) -> Float[Tensor, "B *K D"]:
    """Each sample's own choice of tokens."""
    flat = index.flatten(1)
    chosen = tokens.gather(1, flat[..., None].expand(-1, -1, tokens.shape[-1]))
    return chosen.unflatten(1, index.shape[1:])


def init_weights(network: nn.Module, std: float | None) -> None:
    """Zero biases, and weights of Xavier's uniform rule, or normal ones of a given deviation.

    Xavier's rule (Glorot and Bengio 2010) takes each layer's width into account, patches being one flat layer. A deviation of
    0.02, as I-JEPA published, suits wide networks; in narrow ones patches then weigh little beside their positions, and the
    representation can fall to positions alone. I-JEPA's release also rescales the residual projections by depth, but then
    initializes them again, so that no published weight started from the rescaled values; they are left out here.
    """
    for layer in network.modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d):
            continue
        if std is None:
            nn.init.xavier_uniform_(layer.weight.view(len(layer.weight), -1))
        else:
            nn.init.trunc_normal_(layer.weight, std=std)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
