"""Folders of transformers, read into tensors under the names of this package."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.interop import hf_names
from jepa_pipeline.interop.folder_values import checked_settings
from jepa_pipeline.interop.official import find, mlp_ratio
from jepa_pipeline.interop.published import Published, rename
from jepa_pipeline.interop.timm_sizes import ViTSizes


class Layout(NamedTuple):
    """A network of transformers.

    Attributes:
        types: values of model_type in config.json.
        table: names of tensors.
        drop: regular expressions of names, without the prefix of a network with a head, that are not of the encoder.
        defaults: values that config.json may leave out.
    """

    types: Sequence[str]
    table: hf_names.Table
    drop: Sequence[str]
    defaults: dict[str, Any]


class Network(NamedTuple):
    """A network of transformers under our names.

    Attributes:
        published: its tensors, with attn.qkv in one.
        settings: its config.json, with the defaults of its layout.
        dropped: names of tensors that are not of the encoder.
        sizes: of its blocks.
        hidden: width of its MLPs, before the activation.
    """

    published: Published
    settings: dict[str, Any]
    dropped: tuple[str, ...]
    sizes: ViTSizes
    hidden: int

    @property
    def weights(self) -> dict[str, Tensor]:
        """Return the tensors by our names."""
        return dict(self.published.tensors)


HEADS = (r"(?:classifier|pooler|decoder)\..+", r"embeddings\.mask_token")
VIT_DEFAULTS = {"num_attention_heads": 12, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "qkv_bias": True}
IJEPA = Layout(["ijepa"], [*hf_names.VIT, *hf_names.VIT_NEWER], HEADS, VIT_DEFAULTS)
VIT = Layout(["vit"], IJEPA.table, HEADS, VIT_DEFAULTS)
DINOV2 = Layout(
    ["dinov2", "dinov2_with_registers"],
    [*hf_names.DINOV2, *hf_names.DINOV2_NEWER],
    HEADS,
    {**VIT_DEFAULTS, "layer_norm_eps": 1e-6},
)
DINOV3 = Layout(
    ["dinov3_vit"],
    hf_names.DINOV3,
    HEADS,
    {"num_attention_heads": 6, "layer_norm_eps": 1e-5, "hidden_act": "gelu", "image_size": 224, "rope_theta": 100.0},
)
VJEPA2 = Layout(
    ["vjepa2"],
    hf_names.VJEPA2,
    (*HEADS, r"predictor\..+"),
    {"num_attention_heads": 16, "layer_norm_eps": 1e-6, "hidden_act": "gelu", "crop_size": 256, "frames_per_clip": 64},
)
LATER = ("use_rope_interleave", "use_modality_embeddings", "interpolate_rope", "use_image_patch_embedder")
"""Keys of VJEPA2Config that only V-JEPA 2.1 sets."""


def read(published: Published, layout: Layout) -> Network:
    """Return a network under our names.

    Raises:
        UserError: there is no config.json of this layout, or a tensor is unknown or missing.
    """
    kind = published.config.get("model_type")
    if kind not in layout.types:
        found = f"says model_type: {kind}" if published.config else "is missing"
        raise UserError(
            f"the config.json of {published.path} {found}, but these weights need the one that transformers wrote with them, for "
            f"model_type: {' or '.join(layout.types)}: give the folder that holds both"
        )
    prefixes = (f"{kind}.", "model.")
    rules = hf_names.rules(layout.table, prefixes)
    drop = [hf_names.optional_prefix(prefixes) + pattern for pattern in layout.drop]
    tensors = {name: tensor for name, tensor in rename(published, rules, drop).items() if tensor.numel()}
    if layout is DINOV3:
        tensors = separate_biases(published, tensors)
    try:
        tensors = hf_names.fuse(tensors, ("q", "k", "v"), "qkv")
        tensors = hf_names.fuse(tensors, ("gate", "up"), "fc1")
    except KeyError as error:
        missing = hf_names.theirs(error.args[0], layout.table)
        raise UserError(f"{published.path} holds no {missing}, which this network needs: copy the folder again") from None
    renamed = published._replace(tensors=tensors)
    settings = checked_settings(published, layout.defaults)
    kernel, hidden = find(renamed, "patch_embed.proj.weight"), len(find_mlp(renamed))
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    check_sizes(published, settings, len(kernel), depth)
    ratio = mlp_ratio(len(kernel), hidden)
    sizes = ViTSizes(kernel.shape[-1], len(kernel), depth, settings["num_attention_heads"], ratio)
    if not settings.get("qkv_bias", True):  # without is as with zeros
        tensors |= {f"blocks.{block}.attn.qkv.bias": torch.zeros(3 * len(kernel)) for block in range(depth)}
    dropped = tuple(name for name in published.tensors if any(re.fullmatch(pattern, name) for pattern in drop))
    return Network(renamed, settings, dropped, sizes, hidden)


def check_sizes(published: Published, settings: Mapping[str, Any], dim: int, depth: int) -> None:
    """Compare the sizes in config.json with those of the tensors.

    Raises:
        UserError: they differ.
    """
    if (told := settings.get("num_hidden_layers", depth)) != depth:
        raise UserError(
            f"config.json of {published.path} says num_hidden_layers {told}, but its weights are of {depth} layers: copy the "
            "folder again, or correct it"
        )
    if dim % (heads := settings["num_attention_heads"]):
        left_out = "" if published.config.get("num_attention_heads") else " (the default)"
        raise UserError(
            f"num_attention_heads in config.json of {published.path} is {heads}{left_out}, but does not divide the width of "
            f"{dim}: correct it, or copy the folder again"
        )


def find_mlp(renamed: Published) -> Tensor:
    gated = "blocks.0.mlp.fc1_g.weight"
    return find(renamed, gated if gated in renamed.tensors else "blocks.0.mlp.fc1.weight")


def separate_biases(published: Published, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return DINOv3's tensors by timm's names: queries and values have biases of their own, and keys none.

    Raises:
        UserError: keys have biases that are not zero.
    """
    gated = any(name.endswith("mlp.fc1_g.weight") for name in tensors)
    found = dict[str, Tensor]()
    for name, tensor in tensors.items():
        if name.endswith(".attn.k.bias"):
            if tensor.any():
                raise UserError(f"the keys of {published.path} have biases ({name}), which DINOv3 in timm has no place for")
        elif name.endswith((".attn.q.bias", ".attn.v.bias")):
            found[f"{name.removesuffix('.bias')}_bias"] = tensor
        else:
            found[name.replace(".mlp.up.", ".mlp.fc1_x." if gated else ".mlp.fc1.")] = tensor
    return found
