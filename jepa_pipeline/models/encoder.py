"""The vision transformer that is pretrained."""

from collections.abc import Sequence
from math import prod
from typing import Any, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jepa_pipeline.config.grid import Grid
from jepa_pipeline.config.networks import Architecture, EncoderConfig
from jepa_pipeline.config.pixel_format import name_channels
from jepa_pipeline.models.interface import TokenEncoder
from jepa_pipeline.models.patch_embed import ImagePatchEmbed, TubeletEmbed
from jepa_pipeline.models.positions import is_prefix, resize_positions, sincos
from jepa_pipeline.models.rotary import gather_rope, rope_table
from jepa_pipeline.models.tokens import apply_masks
from jepa_pipeline.models.transformer import LayerNorm, Transformer, causal_mask, init_weights, set_norm_eps, why_not_eps

# timm's architecture to start from. All sizes are in model_args, so explicit sizes can start from any of them.
TIMM_ARCHITECTURES: dict[Architecture | None, str] = {
    "vit_tiny": "vit_tiny_patch16_224",
    "vit_small": "vit_small_patch16_224",
    "vit_base": "vit_base_patch16_224",
    "vit_large": "vit_large_patch16_224",
    "vit_huge": "vit_huge_patch14_gap_224",
    "vit_giant": "vit_giant_patch16_gap_224",
    None: "vit_base_patch16_224",
}


class Encoder(TokenEncoder):
    """A ViT without a class token (Dosovitskiy et al. 2021) for images or clips; an image is a clip of one time step.

    For images with additive position embeddings its state is that of timm's
    `VisionTransformer(class_token=False, fc_norm=False, num_classes=0)`; for clips it has V-JEPA's names and shapes.
    """

    config: EncoderConfig
    pos_embed: Float[Tensor, "1 N D"] | None
    rope: Float[Tensor, "N E"] | None

    def __init__(self, config: EncoderConfig, patch_embed: nn.Module | None = None) -> None:
        """Build an untrained encoder.

        Args:
            config: its sizes.
            patch_embed: the patch embedding, for other inputs than pixels; default: new_patch_embed(config).
        """
        super().__init__()
        self.config = config  # pyright: ignore[reportIncompatibleVariableOverride]
        self.grid = config.clip_grid
        dim, self.depth, heads, ratio = config.size
        self.width = dim
        self.patch_embed = patch_embed or new_patch_embed(config)
        self.register_buffer("pos_embed", None if config.rotary else sincos(config, dim)[None])
        self.register_buffer("rope", self.new_rope(self.grid) if config.rotary else None, persistent=False)
        self.blocks = Transformer(dim, self.depth, heads, ratio, config.rotary)
        self.norm = LayerNorm(dim)
        init_weights(self, config.init_std, config.init_depth_scaling)
        if config.norm_eps is not None:
            set_norm_eps(self, config.norm_eps)

    @overload
    def forward(self, pixels: Float[Tensor, "B C *T H W"], masks: None = None) -> Float[Tensor, "B N D"]: ...

    @overload
    def forward(self, pixels: Float[Tensor, "B C *T H W"], masks: Sequence[Int[Tensor, "B _"]]) -> list[Float[Tensor, "B _ D"]]: ...

    def forward(
        self, pixels: Float[Tensor, "B C *T H W"], masks: Sequence[Int[Tensor, "B _"]] | None = None
    ) -> Float[Tensor, "B N D"] | list[Float[Tensor, "B _ D"]]:
        """Return the tokens of all patches, or for each mask those of its patches, encoded without the others.

        Args:
            pixels: normalized images or clips.
            masks: indices into the row-major grid of tokens. Patches are embedded once for all masks.

        Raises:
            ValueError: the image or clip is not a whole number of patches or tubelets.
        """
        if masks is None:
            return self.intermediates(pixels, 1)[0]
        tokens, rope = self.prepare_tokens(pixels)
        return [self.encode_masked(tokens, rope, mask) for mask in masks]

    def intermediates(self, pixels: Float[Tensor, "B C *T H W"], last: int) -> list[Float[Tensor, "B N D"]]:
        """Return the tokens after each of the last blocks; see BaseEncoder."""
        if not 1 <= last <= self.depth:
            raise ValueError(f"cannot return the last {last} blocks: the encoder has {self.depth}")
        tokens, rope = self.prepare_tokens(pixels)
        attn_mask = None
        if self.config.attention == "causal":
            steps, rows, columns = self.token_grid(pixels)
            token_steps = torch.arange(steps, device=tokens.device).repeat_interleave(rows * columns)
            attn_mask = causal_mask(token_steps, self.config.window)
        blocks = self.blocks.forward_intermediates(tokens, rope, attn_mask, last)
        return [self.norm_after(number)(block) for number, block in enumerate(blocks, start=self.depth - last)]

    def norm_after(self, block: int) -> nn.Module:
        """Return the norm of the tokens after a block, counted from 0."""
        return self.norm

    def encode_masked(
        self, tokens: Float[Tensor, "B N D"], rope: Float[Tensor, "N E"] | None, mask: Int[Tensor, "B K"]
    ) -> Float[Tensor, "B K D"]:
        """Return the final tokens at the indices of a mask, which attend only to one another."""
        if rope is not None:
            rope = gather_rope(rope, mask)
        attn_mask = None
        if self.config.attention == "causal":
            steps = mask // prod(self.grid[1:])
            attn_mask = causal_mask(steps, self.config.window)[:, None]  # the same for all heads
        return self.norm(self.blocks(apply_masks(tokens, mask), rope, attn_mask))

    def prepare_tokens(self, pixels: Float[Tensor, "B C *T H W"]) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "N E"] | None]:
        """Return the embedded patches with position embeddings and None, or without positions and their rotary table.

        Positions are extended to images or clips of a different size or length than configured.
        """
        clip = self.add_time_axis(pixels)
        grid = self.token_grid(clip)
        tokens = self.patch_embed(clip)
        if self.pos_embed is not None:
            return tokens + self.resize_positions(self.pos_embed, grid), None
        assert self.rope is not None
        # Under autocast patches are bf16. The residual stream must stay fp32, as it does where positions are added.
        return tokens.to(self.norm.weight.dtype), self.resize_rope(self.rope, grid)

    def add_time_axis(self, pixels: Float[Tensor, "B C *T H W"]) -> Float[Tensor, "B C _ H W"]:
        """Return images as clips; a single frame is repeated to the length of a tubelet."""
        clip = pixels if pixels.ndim == 5 else pixels.unsqueeze(2)
        return clip.expand(-1, -1, self.config.tubelet_size, -1, -1) if clip.shape[2] == 1 else clip

    def token_grid(self, pixels: Float[Tensor, "B C *T H W"]) -> Grid:
        """Return time steps, rows and columns of the tokens of an image or clip.

        Raises:
            ValueError: it is not a whole number of patches or tubelets, or a clip for an image encoder.
        """
        frames, height, width = self.add_time_axis(pixels).shape[2:]
        tubelet, patch = self.config.tubelet_size, self.config.patch_size
        if height % patch or width % patch:
            raise ValueError(f"an image of {height}x{width} pixels is not a whole number of {patch}x{patch} patches")
        if frames % tubelet:
            raise ValueError(f"a clip of {frames} frames is not a whole number of tubelets of {tubelet} frames")
        if frames > 1 and not self.config.modality.has_time:
            raise ValueError(f"an image encoder was given a clip of {frames} frames")
        return frames // tubelet, height // patch, width // patch

    def resize_positions(self, positions: Float[Tensor, "1 _ D"], grid: Grid) -> Float[Tensor, "1 _ D"]:
        return positions if grid == self.grid else resize_positions(positions, self.grid, grid, self.config.modality.has_time)

    def resize_rope(self, rope: Float[Tensor, "_ E"], grid: Grid) -> Float[Tensor, "_ E"]:
        if is_prefix(grid, self.grid):
            return rope[: prod(grid)]
        return self.new_rope(grid, rope.device)

    def new_rope(self, grid: Grid, device: torch.device | None = None) -> Float[Tensor, "_ E"]:
        """Return the rotary table of a grid."""
        return rope_table(
            grid, self.config.size.embed_dim // self.config.size.num_heads, self.config.positions == "rope_tiled", device
        )

    def why_not_timm(self) -> str | None:
        """Return the reason for clips and rotary positions; see BaseEncoder."""
        if self.config.modality.has_time:
            return "takes clips"
        if self.config.rotary:
            return f"has rotary positions ({self.config.positions})"
        return None if self.config.norm_eps is None else why_not_eps(self.config.norm_eps)

    def timm_config(self) -> dict[str, Any]:
        """Return timm's configuration of this network; see BaseEncoder."""
        config, (dim, depth, heads, ratio) = self.config, self.config.size
        return {
            "architecture": TIMM_ARCHITECTURES[config.arch],
            "global_pool": "avg",
            "model_args": {
                "img_size": config.image_size,
                "patch_size": config.patch_size,
                "embed_dim": dim,
                "depth": depth,
                "num_heads": heads,
                "mlp_ratio": ratio,
                "class_token": False,
                "global_pool": "avg",
                "fc_norm": False,
            },
            "pretrained_cfg": {"first_conv": "patch_embed.proj", "classifier": "head"},
        }

    def describe(self) -> str:
        """Return the sizes of the transformer in words; see BaseEncoder."""
        config, size = self.config, self.config.size
        side = f"{config.image_size} pixels{name_channels(config.in_channels)}"
        inputs = f"patches of {config.patch_size} pixels, images of {side}"
        if config.modality.has_time:
            tubelet = f"tubelets of {config.tubelet_size} frames of {config.patch_size} pixels"
            inputs = f"{tubelet}, clips of {config.frames} frames of {side}"
        sizes = f"{size.depth} blocks, width {size.embed_dim}, {size.num_heads} heads"
        return f"A vision transformer: {sizes}, {inputs}, no class token"


def new_patch_embed(config: EncoderConfig) -> nn.Module:
    """Return the untrained patch embedding of images or clips."""
    if config.modality.has_time:
        tubelet = (config.tubelet_size, config.patch_size, config.patch_size)
        return TubeletEmbed(tubelet, config.in_channels, config.size.embed_dim)
    # Sizes are checked by token_grid, so that images of other sizes than the configured one are accepted.
    return ImagePatchEmbed(config.image_size, config.patch_size, config.in_channels, config.size.embed_dim, strict_img_size=False)
