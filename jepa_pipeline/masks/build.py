"""From a configuration to the masks it names."""

from jepa_pipeline.config.masks import MultiBlockConfig
from jepa_pipeline.config.methods import IJepaConfig, MethodConfig
from jepa_pipeline.masks.legacy import LegacyMultiBlock
from jepa_pipeline.masks.multiblock import MultiBlock


def build_masks(config: MultiBlockConfig, grid: tuple[int, int]) -> MultiBlock | LegacyMultiBlock:
    """The mask sampler for a grid of patches."""
    return LegacyMultiBlock(config, grid) if config.legacy else MultiBlock(config, grid)


def method_masks(config: MethodConfig) -> MultiBlock | LegacyMultiBlock | None:
    """The mask sampler of a method; None where it has no masks."""
    return build_masks(config.masks, config.encoder.grid) if isinstance(config, IJepaConfig) else None
