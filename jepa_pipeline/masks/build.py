"""From a configuration to the masks it names."""

from jepa_pipeline.config.hjepa import AnyMasks, ForwardConfig, HJepaConfig
from jepa_pipeline.config.jepa import IJepaConfig, VJepaConfig
from jepa_pipeline.config.masks import MultiBlockConfig
from jepa_pipeline.config.methods import MethodConfig
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.video_masks import BlocksConfig, CausalConfig, Grid
from jepa_pipeline.masks.blocks import Blocks
from jepa_pipeline.masks.causal import Causal
from jepa_pipeline.masks.legacy import LegacyMultiBlock
from jepa_pipeline.masks.legacy_blocks import LegacyBlocks
from jepa_pipeline.masks.multiblock import MultiBlock

Sampler = MultiBlock | LegacyMultiBlock | Blocks | LegacyBlocks | Causal


def build_masks(config: MultiBlockConfig, grid: tuple[int, int]) -> MultiBlock | LegacyMultiBlock:
    """The mask sampler for a grid of patches."""
    return LegacyMultiBlock(config, grid) if config.legacy else MultiBlock(config, grid)


def build_video_masks(config: BlocksConfig | CausalConfig, grid: Grid) -> Blocks | LegacyBlocks | Causal:
    """The mask sampler of one set, for the tokens of a clip."""
    if isinstance(config, CausalConfig):
        return Causal(config, grid)
    return LegacyBlocks(config, grid) if config.legacy else Blocks(config, grid)


def method_masks(config: MethodConfig) -> list[Sampler]:
    """The mask samplers of a method, one a set of masks; they are asked in this order, each with the same generators."""
    if isinstance(config, IJepaConfig):
        return [build_masks(config.masks, config.encoder.grid)]
    if isinstance(config, VJepaConfig):
        return [build_video_masks(masks, config.encoder.clip_grid) for masks in config.masks]
    if isinstance(config, HJepaConfig):
        return [sampler for level in level_masks(config) for sampler in level]
    return []


def level_masks(config: HJepaConfig) -> list[list[Sampler]]:
    """The mask samplers of each level of a stack, on its own grid."""
    pairs = zip(config.tasks, config.encoders, strict=True)
    return [[build_level_masks(masks, encoder) for masks in tasks] for tasks, encoder in pairs]


def build_level_masks(config: AnyMasks | ForwardConfig, encoder: EncoderConfig) -> Sampler:
    match config:
        case MultiBlockConfig():
            return build_masks(config, encoder.grid)
        case BlocksConfig():
            return build_video_masks(config, encoder.clip_grid)
        case _:
            return Causal(config, encoder.clip_grid)


def future_masks(config: VJepaConfig | HJepaConfig, past: float) -> list[list[Sampler]]:
    """Of each level, the mask sampler that shows the first share of the time steps and asks for all others."""
    encoders = config.encoders if isinstance(config, HJepaConfig) else [config.encoder]
    masks = CausalConfig(name="causal", context_time=past)
    return [[Causal(masks, encoder.clip_grid)] for encoder in encoders]
