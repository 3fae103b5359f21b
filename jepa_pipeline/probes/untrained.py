"""What an encoder is called where it stands for its shape alone, as in the rows of untrained twins and of pixels."""

from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig


def describe(config: EncoderConfig | BackboneConfig) -> str:
    """The network in a few words."""
    if isinstance(config, BackboneConfig):
        return f"{config.timm}{' (small stem)' if config.small_stem else ''}, {input_size(config)}"
    width, depth, *_ = config.size
    patch = f"{config.tubelet_size}x{config.patch_size}x{config.patch_size}" if config.clips else config.patch_size
    return f"{config.arch or f'ViT {width} x {depth}'}, patches of {patch}, {input_size(config)}"


def input_size(config: EncoderConfig | BackboneConfig) -> str:
    """Of what the encoder is given: height and width, before them the frames of a clip."""
    frames = f"{config.frames}x" if isinstance(config, EncoderConfig) and config.clips else ""
    return f"{frames}{config.image_size}x{config.image_size}"
