"""Networks in folders of timm, and weights on disk for one of timm's names."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationError
from torch import nn

import jepa_pipeline._torchvision  # noqa: F401  # before timm
import timm
from jepa_pipeline.config.encoder_card import CARD
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig, Size
from jepa_pipeline.interop.folder_values import Count, Deviations, Numbers, PositiveNumber, checked_value
from jepa_pipeline.interop.official import Sizes, encoder_config, find, first_mistake, is_vit, mlp_ratio
from jepa_pipeline.interop.published import Family, Imported, Published
from jepa_pipeline.models.backbone import check_name
from timm.models.vision_transformer import Block, VisionTransformer

SET_ELSEWHERE = ("img_size", "num_classes", "in_chans", "pretrained")
"""Arguments of timm that an encoder's configuration holds under other keys, or not at all."""
Shape = Annotated[list[Count], Field(min_length=3, max_length=3)]
ImageSize = Count | Annotated[list[Count], Field(min_length=2, max_length=2)]
Names = str | list[str]
KINDS: dict[str, Any] = {
    "mean": Numbers,
    "std": Deviations,
    "input_size": Shape,
    "classifier": Names,
    "first_conv": Names,
    "crop_pct": PositiveNumber,
    "interpolation": str,
}
"""Kinds of the values that are read of timm's pretrained_cfg."""
KINDS_OF_ARGUMENTS: dict[str, Any] = {"img_size": ImageSize, "in_chans": Count}


def convert_folder(published: Published) -> Imported:
    """Return the network that config.json of a timm folder describes, without its classifier.

    Raises:
        UserError: there is no such config.json, or it is incomplete.
    """
    config = published.config
    if not isinstance(config.get("architecture"), str):
        raise UserError(
            f"{published.path} does not say which network of timm it holds: give the folder with the config.json that timm wrote, "
            "or --as timm:NAME"
        )
    # Earlier versions of timm wrote one level, later ones the preprocessing in a level of its own.
    file = f"{published.path}/{CARD}"
    pretrained = checked_value(dict[str, Any], config.get("pretrained_cfg") or dict(config), "pretrained_cfg", file)
    model_args = checked_value(dict[str, Any], config.get("model_args") or {}, "model_args", file)
    for values, kinds in ((pretrained, KINDS), (model_args, KINDS_OF_ARGUMENTS)):
        for key in [key for key in kinds if values.get(key) is not None]:
            checked_value(kinds[key], values[key], key, file)
    return convert(published, config["architecture"], model_args, pretrained)


def convert_name(published: Published) -> Imported:
    """Return the network of timm's name, such as vit_base_patch16_224.augreg_in21k, without its classifier.

    Raises:
        UserError: timm has no such name, or the folder says another.
    """
    name = published.argument or ""
    architecture, _, tag = name.partition(".")
    check_name(architecture)
    if (found := published.config.get("architecture", architecture)) != architecture:
        raise UserError(f"config.json of {published.path} says {found}, not {architecture}: give --as timm:{found}")
    if published.config:
        return convert_folder(published)
    pretrained = timm.get_pretrained_cfg(architecture)
    if tag:
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
        if tag not in tags:
            raise UserError(f"timm has no weights {tag} of {architecture}: choose {', '.join(tags) or 'the name without a tag'}")
        pretrained = timm.get_pretrained_cfg(name)
    return convert(published, architecture, {}, pretrained.to_dict() if pretrained else {})


def convert(published: Published, architecture: str, model_args: Mapping[str, Any], pretrained: Mapping[str, Any]) -> Imported:
    """Return a network with the preprocessing of its training.

    Args:
        published: its tensors.
        architecture: timm's name.
        model_args: further arguments.
        pretrained: the preprocessing, and the name of the classifier, as timm's pretrained_cfg.

    Raises:
        UserError: an argument is not a value, or the preprocessing is not told.
    """
    missing = [key for key in ("mean", "std", "input_size") if not pretrained.get(key)]
    if missing:
        raise UserError(f"{missing[0]} of {architecture} is missing in config.json of {published.path}: copy the folder again")
    size = model_args.get("img_size", pretrained["input_size"][1:])
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise UserError(f"{published.path} is a network of images of {height}x{width} pixels, but encoders here take squares")
    args = {key: value for key, value in model_args.items() if key not in SET_ELSEWHERE}
    try:
        config = BackboneConfig(
            timm=architecture,
            image_size=published.given.image_size or height,
            in_channels=channels_of(published, model_args, pretrained),
            args=args,
        )
    except ValidationError as error:
        raise UserError(f"the network in {published.path} cannot be created: {first_mistake(error)}") from None
    classifier = pretrained.get("classifier") or ()
    names = [classifier] if isinstance(classifier, str) else classifier
    dropped = tuple(f"{name}.{kind}" for name in names for kind in ("weight", "bias") if f"{name}.{kind}" in published.tensors)
    weights = {name: tensor for name, tensor in published.tensors.items() if name not in dropped}
    return Imported(
        as_encoder(published._replace(tensors=weights), config) or config,
        weights,
        tuple(pretrained["mean"]),
        tuple(pretrained["std"]),
        notes=notes(pretrained),
        dropped=dropped,
    )


def channels_of(published: Published, model_args: Mapping[str, Any], pretrained: Mapping[str, Any]) -> int:
    """Return the channels of the images: those of the first kernel, where timm names it."""
    first = pretrained.get("first_conv")
    for name in [first] if isinstance(first, str) else first or ():
        kernel = published.tensors.get(f"{name}.weight")
        if kernel is not None and kernel.ndim == 4:
            return kernel.shape[1]
    return model_args.get("in_chans") or pretrained["input_size"][0]


def as_encoder(published: Published, config: BackboneConfig) -> EncoderConfig | None:
    """Return a network as an encoder of this package, which a JEPA can train: a ViT of patches alone, as of I-JEPA; else None."""
    if not is_vit(published, 4):
        return None
    with torch.device("meta"):  # only to read its sizes
        sizes = {"img_size": config.image_size, "in_chans": config.in_channels}
        network: Any = timm.create_model(config.timm, num_classes=0, **sizes, **dict[str, Any](config.args))
    if not isinstance(network, VisionTransformer) or network.global_pool != "avg":
        return None
    blocks: Any = network.blocks
    eps = {norm.eps for norm in network.modules() if isinstance(norm, nn.LayerNorm)}
    kinds = {(type(block), type(block.mlp.act).__name__, block.attn.num_heads) for block in blocks}
    if len(kinds) > 1 or eps != {1e-6} or (kind := kinds.pop())[:2] != (Block, "GELU"):
        return None
    dim, hidden = network.embed_dim, len(find(published, "blocks.0.mlp.fc1.weight"))
    size = Size(dim, len(blocks), kind[2], mlp_ratio(dim, hidden))
    patch = find(published, "patch_embed.proj.weight").shape[-1]
    return encoder_config(published, Sizes(1, patch, size, ()), image_size=config.image_size, positions="sincos")


def notes(pretrained: Mapping[str, Any]) -> tuple[str, ...]:
    """Return where timm prepares images otherwise than this package does, and what timm says of the license."""
    crop, interpolation = pretrained.get("crop_pct") or 1.0, pretrained.get("interpolation") or "bicubic"
    found = ["pooled features are those of timm's own pooling"]
    if crop != 1.0 or interpolation != "bicubic":
        found.append(
            f"timm evaluates it on the central {crop:.3g} of the shorter side, resized by {interpolation}; here on all of it, by "
            "bicubic"
        )
    if known := pretrained.get("license"):
        found.append(f"timm names the license {known}")
    return tuple(found)


TIMM = (
    Family("timm", "folders of timm", lambda published: isinstance(published.config.get("architecture"), str), convert_folder),
    Family("timm", "weights of a network of timm", lambda published: False, convert_name, argument="NAME"),
)
