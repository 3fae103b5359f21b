"""The name of timm for a transformer of given sizes, and the arguments by which the two differ."""

from collections.abc import Mapping
from typing import NamedTuple

from jepa_pipeline.config.networks import TimmArgument


class ViTSizes(NamedTuple):
    """Patch size, width, blocks, heads per block and MLP ratio, by timm's names."""

    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0


VIT = {
    "vit_tiny_patch16_224": ViTSizes(16, 192, 12, 3),
    "vit_small_patch16_224": ViTSizes(16, 384, 12, 6),
    "vit_small_patch32_224": ViTSizes(32, 384, 12, 6),
    "vit_small_patch8_224": ViTSizes(8, 384, 12, 6),
    "vit_base_patch16_224": ViTSizes(16, 768, 12, 12),
    "vit_base_patch32_224": ViTSizes(32, 768, 12, 12),
    "vit_base_patch8_224": ViTSizes(8, 768, 12, 12),
    "vit_large_patch16_224": ViTSizes(16, 1024, 24, 16),
    "vit_large_patch32_224": ViTSizes(32, 1024, 24, 16),
    "vit_large_patch14_224": ViTSizes(14, 1024, 24, 16),
    "vit_huge_patch14_224": ViTSizes(14, 1280, 32, 16),
}
DINOV2 = {
    "vit_base_patch14_dinov2": ViTSizes(14, 768, 12, 12),
    "vit_small_patch14_dinov2": ViTSizes(14, 384, 12, 6),
    "vit_large_patch14_dinov2": ViTSizes(14, 1024, 24, 16),
}
DINOV2_SWIGLU = {"vit_giant_patch14_dinov2": ViTSizes(14, 1536, 40, 24, 16 / 3)}
DINOV3 = {
    "vit_base_patch16_dinov3_qkvb": ViTSizes(16, 768, 12, 12),
    "vit_small_patch16_dinov3_qkvb": ViTSizes(16, 384, 12, 6),
    "vit_large_patch16_dinov3_qkvb": ViTSizes(16, 1024, 24, 16),
}
DINOV3_GATED = {
    "vit_small_plus_patch16_dinov3_qkvb": ViTSizes(16, 384, 12, 6),
    "vit_huge_plus_patch16_dinov3_qkvb": ViTSizes(16, 1280, 32, 20),
    "vit_7b_patch16_dinov3": ViTSizes(16, 4096, 40, 32, 2.0),
}


def name_sizes(names: Mapping[str, ViTSizes], sizes: ViTSizes, hidden: int) -> tuple[str, dict[str, TimmArgument]]:
    """Return the name that differs in the fewest sizes, and the arguments for those in which it differs.

    Args:
        names: the choices.
        sizes: of the network.
        hidden: width of its MLP, from which rounding hides the published ratio.
    """
    differences = {name: differing(known, sizes, hidden) for name, known in names.items()}
    name = min(differences, key=lambda name: len(differences[name]))
    return name, differences[name]


def differing(known: ViTSizes, sizes: ViTSizes, hidden: int) -> dict[str, TimmArgument]:
    if int(sizes.embed_dim * known.mlp_ratio) == hidden:
        sizes = sizes._replace(mlp_ratio=known.mlp_ratio)
    return {key: value for key, value in sizes._asdict().items() if value != known._asdict()[key]}
