"""The encoder of V-JEPA 2.1, which embeds clips and single images differently."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa_pipeline.config.grid import Grid
from jepa_pipeline.config.image_video import ImageVideoConfig
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.patch_embed import TubeletEmbed
from jepa_pipeline.models.rotary import rope_table
from jepa_pipeline.models.transformer import LayerNorm

TAPS = {12: (2, 5, 8, 11), 24: (5, 11, 17, 23), 40: (9, 19, 29, 39), 48: (11, 23, 37, 47)}
"""Blocks, counted from 0, after which a norm of its own follows, by the depth of the published networks."""


class ImageVideoEncoder(Encoder):
    """A ViT for clips and images, which have a patch embedding each, and a learned vector each that is added to their tokens.

    It has norms after earlier blocks too, for the levels that its training predicts; `norm` is the one after the last.
    """

    config: ImageVideoConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: ImageVideoConfig) -> None:
        super().__init__(config)
        self.patch_embed_img = TubeletEmbed((1, config.patch_size, config.patch_size), config.in_channels, self.width)
        self.img_mod_embed = nn.Parameter(torch.randn(1, 1, self.width) * 1e-6)
        self.video_mod_embed = nn.Parameter(torch.randn(1, 1, self.width) * 1e-6)
        self.norms_block = nn.ModuleList(LayerNorm(self.width) for _ in range(config.num_norms - 1))

    def prepare_tokens(self, pixels: Float[Tensor, "B C *T H W"]) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "N E"] | None]:
        """Return the embedded patches without positions, and their rotary table; see Encoder."""
        clip = self.add_time_axis(pixels)
        assert self.rope is not None
        if clip.shape[2] == 1:
            tokens = self.patch_embed_img(clip) + self.img_mod_embed
        else:
            tokens = self.patch_embed(clip) + self.video_mod_embed
        return tokens.to(self.norm.weight.dtype), self.resize_rope(self.rope, self.token_grid(clip))

    def add_time_axis(self, pixels: Float[Tensor, "B C *T H W"]) -> Float[Tensor, "B C _ H W"]:
        """Return images as clips of one frame, which is not repeated."""
        return pixels if pixels.ndim == 5 else pixels.unsqueeze(2)

    def token_grid(self, pixels: Float[Tensor, "B C *T H W"]) -> Grid:
        """Return time steps, rows and columns of the tokens; an image has one time step. See Encoder."""
        clip = self.add_time_axis(pixels)
        return super().token_grid(clip.expand(-1, -1, self.config.tubelet_size, -1, -1) if clip.shape[2] == 1 else clip)

    def new_rope(self, grid: Grid, device: torch.device | None = None) -> Float[Tensor, "_ E"]:
        """Return the rotary table of a grid, whose rows and columns span as much as those of the published grid."""
        return rope_table(
            grid, self.width // self.config.size.num_heads, tiled=False, device=device, side=self.config.rope_grid_size
        )

    def norm_after(self, block: int) -> nn.Module:
        """Return the norm of the tokens after a block: its own, if it has one, else the last."""
        taps = TAPS.get(self.depth, ())
        return self.norms_block[taps.index(block)] if len(taps) == self.config.num_norms and block in taps[:-1] else self.norm
