"""The vision transformer that is pretrained."""

from collections.abc import Sequence
from math import prod
from typing import overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

import jepa_pipeline._torchvision  # noqa: F401  # before timm
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.models.attention import Blocks, LayerNorm, no_later
from jepa_pipeline.models.positions import Grid, begins, resize, sincos
from jepa_pipeline.models.rotary import rope_table, take_rope
from jepa_pipeline.models.tokens import TubeletEmbed, init_weights, take
from timm.layers import PatchEmbed, resample_abs_pos_embed


class Encoder(nn.Module):
    """A ViT without class token (Dosovitskiy et al. 2021) of images or of clips; an image is a clip of one time step.

    One of images, with positions that are added, has exactly the state of timm's
    `VisionTransformer(class_token=False, fc_norm=False, num_classes=0)`; one of clips has the names and shapes of V-JEPA's.
    """

    pos_embed: Float[Tensor, "1 N D"] | None
    rope: Float[Tensor, "N E"] | None

    def __init__(self, config: EncoderConfig, patch_embed: nn.Module | None = None) -> None:
        """patch_embed: what makes tokens of a clip, where these are not the tubelets of an RGB clip (coarse.py)."""
        super().__init__()
        self.config = config
        self.grid, self.clips, self.tiled = config.clip_grid, config.clips, config.positions == "rope_tiled"
        self.span = config.tubelet_size, config.patch_size, config.patch_size
        dim, depth, heads, ratio = config.size
        self.patch_embed = patch_embed or (
            TubeletEmbed(self.span, 3, dim)
            if config.clips
            else PatchEmbed(config.image_size, config.patch_size, embed_dim=dim, strict_img_size=False)
        )
        self.causal = config.attention == "causal"
        self.register_buffer("pos_embed", None if config.rotary else sincos(config, dim)[None])
        rope = rope_table(self.grid, dim // heads, self.tiled) if config.rotary else None
        self.register_buffer("rope", rope, persistent=False)
        self.blocks = Blocks(dim, depth, heads, ratio, config.rotary)
        self.norm = LayerNorm(dim)
        init_weights(self, config.init_std)

    @overload
    def forward(self, pixels: Float[Tensor, "B C *T H W"], keep: None = None) -> Float[Tensor, "B N D"]: ...

    @overload
    def forward(self, pixels: Float[Tensor, "B C *T H W"], keep: Sequence[Int[Tensor, "B _"]]) -> list[Float[Tensor, "B _ D"]]: ...

    def forward(
        self, pixels: Float[Tensor, "B C *T H W"], keep: Sequence[Int[Tensor, "B _"]] | None = None
    ) -> Float[Tensor, "B N D"] | list[Float[Tensor, "B _ D"]]:
        """All tokens; or, for each choice of patches, the tokens of these alone.

        Patches are embedded and placed once, and then each choice passes through the blocks by itself.

        Raises:
            ValueError: the image or clip is not a whole number of patches or tubelets.
        """
        tokens, rope = self.embed(pixels)
        if keep is None:
            return self.norm(self.blocks(tokens, rope, self.mask(tokens, pixels)))
        return [self.norm(self.blocks(take(tokens, index), *self.at(index, rope))) for index in keep]

    def at(
        self, index: Int[Tensor, "B K"], rope: Float[Tensor, "N E"] | None
    ) -> tuple[Float[Tensor, "B 1 K E"] | None, Bool[Tensor, "B 1 K K"] | None]:
        """The angles of chosen tokens, and what each of them may attend to, the same for all heads."""
        steps = index // prod(self.grid[1:])
        return None if rope is None else take_rope(rope, index), no_later(steps, self.config.window)[
            :, None
        ] if self.causal else None

    def mask(self, tokens: Float[Tensor, "B N D"], pixels: Float[Tensor, "B C *T H W"]) -> Bool[Tensor, "N N"] | None:
        """What each of all tokens may attend to; None: to all."""
        if not self.causal:
            return None
        grid = self.grid_of(pixels)
        return no_later(torch.arange(grid[0], device=tokens.device).repeat_interleave(prod(grid[1:])), self.config.window)

    def grid_of(self, pixels: Float[Tensor, "B C *T H W"]) -> Grid:
        """Time steps, rows and columns of tokens of an image or clip."""
        return self.divide(*self.as_clip(pixels).shape[2:])

    def embed(self, pixels: Float[Tensor, "B C *T H W"]) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "N E"] | None]:
        """Patches with their positions; or patches, and the angles of their positions.

        Positions that are added are interpolated for an image or clip of another size or a greater length than the configured one.
        """
        clip = self.as_clip(pixels)
        grid = self.divide(*clip.shape[2:])
        tokens = self.patch_embed(clip.squeeze(2) if isinstance(self.patch_embed, PatchEmbed) else clip)
        if self.pos_embed is not None:
            return tokens + self.added(self.pos_embed, grid), None
        assert self.rope is not None
        # under autocast patches are bf16; what the blocks add up stays fp32, as it does where positions are added
        return tokens.to(self.norm.weight.dtype), self.angles(self.rope, grid)

    def as_clip(self, pixels: Float[Tensor, "B C *T H W"]) -> Float[Tensor, "B C _ H W"]:
        """With a dimension of time; a single frame lasts as long as a token does."""
        clip = pixels if pixels.ndim == 5 else pixels.unsqueeze(2)
        return clip.expand(-1, -1, self.span[0], -1, -1) if clip.shape[2] == 1 else clip

    def divide(self, frames: int, height: int, width: int) -> Grid:
        """Time steps, rows and columns of tokens.

        Raises:
            ValueError: there is no whole number of them, or time passes and the encoder is one of images.
        """
        tubelet, patch, _ = self.span
        if height % patch or width % patch:
            raise ValueError(f"an image of {height}x{width} pixels is not a whole number of {patch}x{patch} patches")
        if frames % tubelet:
            raise ValueError(f"a clip of {frames} frames is not a whole number of tubelets of {tubelet} frames")
        if frames > 1 and not self.clips:
            raise ValueError(f"a clip of {frames} frames was given to an encoder of images")
        return frames // tubelet, height // patch, width // patch

    def added(self, positions: Float[Tensor, "1 _ D"], grid: Grid) -> Float[Tensor, "1 _ D"]:
        """The positions of a grid, from those of the encoder's own."""
        if grid == self.grid:
            return positions
        if self.clips:
            return resize(positions, self.grid, grid)
        return resample_abs_pos_embed(positions, list(grid[1:]), list(self.grid[1:]), num_prefix_tokens=0)

    def angles(self, rope: Float[Tensor, "_ E"], grid: Grid) -> Float[Tensor, "_ E"]:
        """The angles of a grid: the first ones there are, or, where it is longer or of another size, its own."""
        if begins(grid, self.grid):
            return rope[: prod(grid)]
        return rope_table(grid, rope.shape[1] // 2, self.tiled, rope.device)

    @property
    def width(self) -> int:
        """Of the pooled features."""
        return self.config.size.embed_dim

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def pooled(self, pixels: Float[Tensor, "B C *T H W"]) -> Float[Tensor, "B D"]:
        """One vector per image or clip: the mean of all its tokens."""
        return self(pixels).mean(1)

    def pooled_and_intermediates(
        self, pixels: Float[Tensor, "B C *T H W"], last: int
    ) -> tuple[Float[Tensor, "B D"], list[Float[Tensor, "B N D"]]]:
        """What pooled and what intermediates give, in one pass."""
        blocks = self.intermediates(pixels, last)
        return blocks[-1].mean(1), blocks

    @torch.no_grad()
    def intermediates(self, pixels: Float[Tensor, "B C *T H W"], last: int) -> list[Float[Tensor, "B N D"]]:
        """Tokens after each of the last blocks, every one through the final norm, in order of depth.

        Raises:
            ValueError: there are not that many blocks.
        """
        return self.last(pixels, last)

    def last(self, pixels: Float[Tensor, "B C *T H W"], count: int) -> list[Float[Tensor, "B N D"]]:
        """The same, with a gradient."""
        if not 1 <= count <= len(self.blocks):
            raise ValueError(f"the last {count} blocks of an encoder of {len(self.blocks)}")
        tokens, rope = self.embed(pixels)
        return [self.norm(block) for block in self.blocks.last(tokens, rope, self.mask(tokens, pixels), count)]
