"""Folders of transformers, read into tensors under the names of this package."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.interop import hf_names
from jepa_pipeline.interop.folder_values import checked_settings
from jepa_pipeline.interop.hf_checks import check_biases, check_heads, check_sizes, measure, with_biases
from jepa_pipeline.interop.official import find, mlp_ratio
from jepa_pipeline.interop.published import Published, rename
from jepa_pipeline.interop.timm_sizes import ViTSizes


class Layout(NamedTuple):
    """A network of transformers.

    Attributes:
        types: values of model_type in config.json.
        table: names of tensors.
        drop: regular expressions of names, without the prefix of a network with a head, that are not of the encoder.
        sizes: keys of config.json that tensors show too; where they are left out, the tensors tell them.
        defaults: values of the other keys that decide what is computed, for where config.json leaves them out.
    """

    types: Sequence[str]
    table: hf_names.Table
    drop: Sequence[str]
    sizes: Sequence[str]
    defaults: dict[str, Any]


class Network(NamedTuple):
    """A network of transformers under our names.

    Attributes:
        published: its tensors, with attn.qkv in one.
        settings: what was read of its config.json, with the defaults of its layout.
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
BLOCKS = ("hidden_size", "num_hidden_layers", "patch_size")
IMAGES = (*BLOCKS, "num_channels", "image_size")
VIT_SIZES = (*IMAGES, "intermediate_size")
VIT_DEFAULTS = {"num_attention_heads": 12, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "qkv_bias": True}
IJEPA = Layout(["ijepa"], [*hf_names.VIT, *hf_names.VIT_NEWER], HEADS, VIT_SIZES, VIT_DEFAULTS)
VIT = Layout(["vit"], IJEPA.table, HEADS, VIT_SIZES, VIT_DEFAULTS)
DINOV2 = Layout(
    ["dinov2", "dinov2_with_registers"],
    [*hf_names.DINOV2, *hf_names.DINOV2_NEWER],
    HEADS,
    (*IMAGES, "mlp_ratio", "num_register_tokens"),
    {**VIT_DEFAULTS, "layer_norm_eps": 1e-6, "use_swiglu_ffn": False},
)
DINOV3 = Layout(
    ["dinov3_vit"],
    hf_names.DINOV3,
    HEADS,
    (*BLOCKS, "num_channels", "intermediate_size", "num_register_tokens"),
    {
        "num_attention_heads": 6,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
        "image_size": 224,
        "rope_theta": 100.0,
        "query_bias": True,
        "value_bias": True,
        "proj_bias": True,
        "mlp_bias": True,
        "use_gated_mlp": False,
    },
)
VJEPA2 = Layout(
    ["vjepa2"],
    hf_names.VJEPA2,
    (*HEADS, r"predictor\..+"),
    (*BLOCKS, "in_chans", "tubelet_size", "mlp_ratio"),
    {
        "num_attention_heads": 16,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "crop_size": 256,
        "frames_per_clip": 64,
    },
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
    settings = checked_settings(published, layout.sizes, layout.defaults)
    kernel, hidden = find(renamed, "patch_embed.proj.weight"), len(find_mlp(renamed))
    # of a file that skips a number, the last blocks are refused by name
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    sizes = ViTSizes(kernel.shape[-1], len(kernel), depth, settings["num_attention_heads"], mlp_ratio(len(kernel), hidden))
    check_heads(published, sizes)
    check_sizes(published, settings, measure(tensors, depth, hidden))
    check_biases(published, settings, tensors)
    dropped = tuple(name for name in published.tensors if any(re.fullmatch(pattern, name) for pattern in drop))
    return Network(renamed._replace(tensors=with_biases(tensors, settings, depth)), settings, dropped, sizes, hidden)


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
