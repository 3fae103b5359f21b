"""Mask samplers from their configurations."""

from jepa_pipeline.config.grid import Grid
from jepa_pipeline.config.masks import MultiBlockConfig
from jepa_pipeline.config.methods import MethodConfig
from jepa_pipeline.config.tasks import MaskSet
from jepa_pipeline.config.video_masks import BlocksConfig, CausalConfig
from jepa_pipeline.masks.causal import Causal
from jepa_pipeline.masks.multiblock import MultiBlock
from jepa_pipeline.masks.multiblock3d import MultiBlock3d
from jepa_pipeline.masks.published_multiblock import PublishedMultiBlock
from jepa_pipeline.masks.published_multiblock3d import PublishedMultiBlock3d

Sampler = MultiBlock | PublishedMultiBlock | MultiBlock3d | PublishedMultiBlock3d | Causal


def build_mask_sampler(config: MaskSet, grid: Grid) -> Sampler:
    """Return the sampler of a mask set on a grid of time steps, rows and columns (one time step for images)."""
    match config:
        case MultiBlockConfig():
            sampler = PublishedMultiBlock if config.legacy else MultiBlock
            return sampler(config, grid[1:])
        case BlocksConfig():
            return PublishedMultiBlock3d(config, grid) if config.legacy else MultiBlock3d(config, grid)
        case _:
            return Causal(config, grid)


def build_samplers_by_level(config: MethodConfig) -> list[list[Sampler]]:
    """Return the mask samplers of every level, in the order of its mask sets."""
    return [
        [build_mask_sampler(masks, grid) for masks in mask_sets]
        for mask_sets, grid in zip(config.level_masks, config.grids, strict=True)
    ]


def build_mask_samplers(config: MethodConfig) -> list[Sampler]:
    """Return the mask samplers of all levels, from the first up; each is called with the same generators."""
    return [sampler for level in build_samplers_by_level(config) for sampler in level]


def build_future_samplers(config: MethodConfig, past: float) -> list[list[Sampler]]:
    """Return one sampler per level whose context is the first share `past` of the time steps, and its target the rest."""
    masks = CausalConfig(name="causal", context_time=past)
    return [[Causal(masks, grid)] for grid in config.grids]
