"""What an encoder is called where it stands for its shape alone, as in the rows of untrained twins and of pixels."""

from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.stack import CoarseEncoderConfig, StackConfig


def describe(config: EncoderConfig | BackboneConfig) -> str:
    """The network in a few words."""
    if isinstance(config, BackboneConfig):
        return f"{config.timm}{' (small stem)' if config.small_stem else ''}, {input_size(config)}"
    width, depth, *_ = config.size
    patch = f"{config.tubelet_size}x{config.patch_size}x{config.patch_size}" if config.clips else config.patch_size
    above = (
        "".join(f" + {describe_level(coarse, config.clips)}" for coarse in config.above) if isinstance(config, StackConfig) else ""
    )
    return f"{config.arch or f'ViT {width} x {depth}'}{above}, patches of {patch}, {input_size(config)}"


def describe_level(config: CoarseEncoderConfig, clips: bool) -> str:
    """A level of a stack above the first."""
    stride = config.stride
    return f"{config.embed_dim} x {config.depth} (stride {f'{stride.time}x' if clips else ''}{stride.space}x{stride.space})"


def input_size(config: EncoderConfig | BackboneConfig) -> str:
    """Of what the encoder is given: height and width, before them the frames of a clip."""
    frames = f"{config.frames}x" if isinstance(config, EncoderConfig) and config.clips else ""
    return f"{frames}{config.image_size}x{config.image_size}"
