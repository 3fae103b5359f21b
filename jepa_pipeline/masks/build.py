"""From a configuration to the masks it names."""

from jepa_pipeline.config.masks import MultiBlockConfig
from jepa_pipeline.masks.legacy import LegacyMultiBlock
from jepa_pipeline.masks.multiblock import MultiBlock


def build_masks(config: MultiBlockConfig, grid: tuple[int, int]) -> MultiBlock | LegacyMultiBlock:
    """The mask sampler for a grid of patches."""
    return LegacyMultiBlock(config, grid) if config.legacy else MultiBlock(config, grid)
