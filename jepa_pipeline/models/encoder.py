"""The vision transformer that is pretrained."""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

import jepa_pipeline._torchvision  # noqa: F401  # before timm
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.models.positions import sincos_2d
from jepa_pipeline.models.tokens import init_weights, take
from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models.vision_transformer import Block

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class Encoder(nn.Module):
    """A ViT without class token (Dosovitskiy et al. 2021) on fixed 2-D sine-cosine positions.

    Its state has exactly the keys of timm's `VisionTransformer(class_token=False, fc_norm=False, num_classes=0)`.
    """

    pos_embed: Float[Tensor, "1 N D"]

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.grid = config.grid
        dim, depth, heads, ratio = config.size
        self.patch_embed = PatchEmbed(config.image_size, config.patch_size, embed_dim=dim, strict_img_size=False)
        self.register_buffer("pos_embed", sincos_2d(self.grid, dim)[None])
        self.blocks = nn.Sequential(
            *(Block(dim, heads, mlp_ratio=ratio, qkv_bias=True, norm_layer=LayerNorm) for _ in range(depth))  # pyright: ignore[reportArgumentType]
        )
        self.norm = LayerNorm(dim)
        init_weights(self, config.init_std)

    def forward(self, pixels: Float[Tensor, "B C H W"], keep: Int[Tensor, "B K"] | None = None) -> Float[Tensor, "B N D"]:
        """Tokens of the kept patches, or of all of them.

        Patches are embedded and placed before the choice is made, and only the kept ones pass through the blocks.
        """
        tokens = self.embed(pixels)
        if keep is not None:
            tokens = take(tokens, keep)
        return self.norm(self.blocks(tokens))

    def embed(self, pixels: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N D"]:
        """Patches with their positions; positions are interpolated for an image of another size than the configured one.

        Raises:
            ValueError: the image is not a whole number of patches.
        """
        patch = self.config.patch_size
        height, width = pixels.shape[-2:]
        if height % patch or width % patch:
            raise ValueError(f"an image of {height}x{width} pixels is not a whole number of {patch}x{patch} patches")
        positions, grid = self.pos_embed, (height // patch, width // patch)
        if grid != self.grid:
            positions = resample_abs_pos_embed(positions, list(grid), list(self.grid), num_prefix_tokens=0)
        return self.patch_embed(pixels) + positions

    @property
    def width(self) -> int:
        """Of the pooled features."""
        return self.config.size.embed_dim

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def pooled(self, pixels: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """One vector per image: the mean of all its tokens."""
        return self(pixels).mean(1)

    def pooled_and_intermediates(
        self, pixels: Float[Tensor, "B C H W"], last: int
    ) -> tuple[Float[Tensor, "B D"], list[Float[Tensor, "B N D"]]]:
        """What pooled and what intermediates give, in one pass."""
        blocks = self.intermediates(pixels, last)
        return blocks[-1].mean(1), blocks

    @torch.no_grad()
    def intermediates(self, pixels: Float[Tensor, "B C H W"], last: int) -> list[Float[Tensor, "B N D"]]:
        """Tokens after each of the last blocks, every one through the final norm, in order of depth.

        Raises:
            ValueError: there are not that many blocks.
        """
        if not 1 <= last <= len(self.blocks):
            raise ValueError(f"the last {last} blocks of an encoder of {len(self.blocks)}")
        tokens, outputs = self.embed(pixels), []
        for block in self.blocks:
            tokens = block(tokens)
            outputs.append(tokens)
        return [self.norm(tokens) for tokens in outputs[-last:]]
