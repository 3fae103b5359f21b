"""The config.json of transformers, compared with the weights beside it: what both tell must be the same."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.interop.published import Published
from jepa_pipeline.interop.timm_sizes import ViTSizes

BIASES = {
    "qkv_bias": {"attn.qkv.bias": "attn.qkv.weight"},
    "query_bias": {"attn.q_bias": "attn.proj.weight"},
    "value_bias": {"attn.v_bias": "attn.proj.weight"},
    "proj_bias": {"attn.proj.bias": "attn.proj.weight"},
    "mlp_bias": {f"mlp.{layer}.bias": f"mlp.{layer}.weight" for layer in ("fc1", "fc1_g", "fc1_x", "fc2")},
}
"""Biases that a key of config.json turns off, with a weight of as many rows."""
CURE = "copy the folder again, or correct it"


def check_heads(published: Published, sizes: ViTSizes, multiple: int = 1) -> None:
    """Compare the heads, which no tensor shows, with the width.

    Args:
        published: the folder.
        sizes: of the network.
        multiple: what the width of a head is a multiple of.

    Raises:
        UserError: they do not divide it.
    """
    if sizes.embed_dim % (sizes.num_heads * multiple):
        told = f"{sizes.num_heads}{default(published, 'num_attention_heads')}"
        into = f" into heads of a multiple of {multiple} channels" if multiple > 1 else ""
        raise UserError(
            f"num_attention_heads in config.json of {published.path} is {told}, but does not divide the width of "
            f"{sizes.embed_dim}{into}: correct it, or copy the folder again"
        )


def default(published: Published, key: str) -> str:
    return "" if key in published.config else " (the default)"


def measure(tensors: Mapping[str, Tensor], depth: int, hidden: int) -> dict[str, int]:
    """Return the sizes that tensors show, by the keys of config.json.

    Args:
        tensors: by our names.
        depth: number of blocks.
        hidden: width of the MLPs before the activation.
    """
    kernel, registers = tensors["patch_embed.proj.weight"], tensors.get("reg_token")
    return {
        "hidden_size": len(kernel),
        "num_hidden_layers": depth,
        "intermediate_size": hidden,
        "mlp_ratio": hidden,
        "num_channels": kernel.shape[1],
        "in_chans": kernel.shape[1],
        "tubelet_size": kernel.shape[2],
        "patch_size": kernel.shape[-1],
        "num_register_tokens": 0 if registers is None else registers.shape[1],
    }


def check_sizes(published: Published, settings: Mapping[str, Any], measured: Mapping[str, int]) -> None:
    """Compare the sizes in config.json with those of the tensors.

    Raises:
        UserError: they differ.
    """
    for key in measured.keys() & settings.keys():
        told, shown = settings[key], f"{settings[key]}"
        if key == "mlp_ratio":
            gated = settings.get("use_swiglu_ffn", False)
            told = mlp_width(measured["hidden_size"], told, gated)
            shown += f" (use_swiglu_ffn {str(gated).lower()}), so MLPs of width {told}"
        if told != measured[key]:
            raise UserError(f"config.json of {published.path} says {key} {shown}, but its weights show {measured[key]}: {CURE}")


def mlp_width(dim: int, ratio: float, swiglu: bool) -> int:
    """Return the width of the MLPs of transformers; of gated ones, that of gate and value together, as DINOv2 rounds it."""
    width = int(min(dim * ratio, 2.0**53))  # which may be infinite
    return 2 * ((int(width * 2 / 3) + 7) // 8 * 8) if swiglu else width


def check_image_size(published: Published, settings: Mapping[str, Any], patch_size: int, measured: int) -> None:
    """Compare the size of images in config.json with the table of positions; pixels beyond the last whole patch have none.

    Raises:
        UserError: they differ.
    """
    told = settings.get("image_size", measured)
    if told // patch_size * patch_size != measured:
        raise UserError(
            f"config.json of {published.path} says image_size {told}, but its weights have positions for {measured}: {CURE}"
        )


def check_biases(published: Published, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Compare the biases in config.json with the tensors; where some blocks alone have them, the network lacks the others.

    Raises:
        UserError: they differ.
    """
    for key in BIASES.keys() & settings.keys():
        held = next((name for name in tensors if name.endswith(tuple(f".{bias}" for bias in BIASES[key]))), None)
        if settings[key] == (held is not None):
            continue
        told = f"{str(settings[key]).lower()}{default(published, key)}"
        weights = f"hold {held}" if held else "hold none of these biases"
        raise UserError(f"config.json of {published.path} says {key} {told}, but its weights {weights}: {CURE}")


def with_biases(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], depth: int) -> dict[str, Tensor]:
    """Return tensors with zeros for the biases that config.json turns off, which is the same network."""
    found = dict(tensors)
    off = [bias for key in BIASES if not settings.get(key, True) for bias in BIASES[key].items()]
    for block in range(depth):
        for bias, weight in off:
            if (like := tensors.get(f"blocks.{block}.{weight}")) is not None:
                found[f"blocks.{block}.{bias}"] = torch.zeros(len(like))
    return found
