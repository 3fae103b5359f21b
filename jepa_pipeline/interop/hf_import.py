"""Encoders in folders of transformers: IJepaModel, VJEPA2Model, ViTModel, Dinov2Model, Dinov2WithRegistersModel and DINOv3ViTModel.

Also those in networks with a head, such as ViTForImageClassification, without it.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig, Size, TimmArgument
from jepa_pipeline.config.views import IMAGENET_MEAN, IMAGENET_STD
from jepa_pipeline.interop import hf_names, timm_sizes
from jepa_pipeline.interop.official import Sizes, encoder_config, find, mlp_ratio, square_side
from jepa_pipeline.interop.published import Family, Imported, Published, rename

HALF = (0.5, 0.5, 0.5)
ACTIVATIONS: dict[str, dict[str, TimmArgument]] = {
    "gelu": {},
    "gelu_new": {"act_layer": "gelu_tanh"},
    "gelu_pytorch_tanh": {"act_layer": "gelu_tanh"},
    "quick_gelu": {"act_layer": "quick_gelu"},
    "relu": {"act_layer": "relu"},
}
"""Activations of MLPs by the names of transformers, with timm's argument."""


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
    sizes: timm_sizes.ViTSizes
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
    drop = hf_names.optional_prefix(layout.drop, prefixes)
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
    settings = {**layout.defaults, **{key: value for key, value in published.config.items() if value is not None}}
    kernel, hidden = find(renamed, "patch_embed.proj.weight"), len(find_mlp(renamed))
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    heads = published.given.num_heads or settings["num_attention_heads"]
    sizes = timm_sizes.ViTSizes(kernel.shape[-1], len(kernel), depth, heads, mlp_ratio(len(kernel), hidden))
    dropped = tuple(name for name in published.tensors if any(re.fullmatch(pattern, name) for pattern in drop))
    return Network(renamed, settings, dropped, sizes, hidden)


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


def statistics(published: Published, default: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """Return the mean and the deviation of preprocessor_config.json, or those of the published networks with a note."""
    found = published.preprocessor
    if "image_mean" in found and "image_std" in found:
        return {"mean": tuple(found["image_mean"]), "std": tuple(found["image_std"])}
    note = f"its folder has no preprocessor_config.json: a mean of {list(default)} and a deviation of {list(std)} are assumed"
    return {"mean": default, "std": std, "notes": (note,)}


def encoder(network: Network, image_size: int, positions: str, tubelet: int = 1, **values: Any) -> EncoderConfig:
    """Return the configuration of an encoder of this package.

    Raises:
        UserError: the sizes do not fit each other, or the network has another activation.
    """
    activation = network.settings["hidden_act"]
    if activation != "gelu":
        raise UserError(f"the MLPs of {network.published.path} have the activation {activation}, but I-JEPA and V-JEPA 2 have gelu")
    patch, *size = network.sizes
    return encoder_config(
        network.published,
        Sizes(tubelet, patch, Size(*size), ()),
        image_size=image_size,
        positions=positions,
        norm_eps=network.settings["layer_norm_eps"],
        **values,
    )


def backbone(
    network: Network, names: Mapping[str, timm_sizes.ViTSizes], image_size: int, eps: float, args: dict[str, TimmArgument]
) -> BackboneConfig:
    """Return the configuration of a network of timm.

    Args:
        network: the network.
        names: those of timm, of which one is chosen.
        image_size: height and width of the input.
        eps: epsilon of timm's layer norms.
        args: further arguments of timm.

    Raises:
        UserError: a value is out of range.
    """
    name, sizes = timm_sizes.name_sizes(names, network.sizes, network.hidden)
    given, found = network.published.given, network.settings["layer_norm_eps"]
    try:
        return BackboneConfig(
            timm=name, image_size=given.image_size or image_size, norm_eps=None if found == eps else found, args=sizes | args
        )
    except ValidationError as error:
        text = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"the network in {network.published.path} cannot be built: {text}") from None


def activation(network: Network) -> dict[str, TimmArgument]:
    """Return timm's argument for the activation.

    Raises:
        UserError: timm has no such activation.
    """
    name = network.settings["hidden_act"]
    if name not in ACTIVATIONS:
        raise UserError(f"the MLPs of {network.published.path} have the activation {name}: choose one with {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def convert_ijepa(published: Published) -> Imported:
    """Return I-JEPA's encoder, with the statistics of its training, which the converter of transformers did not write."""
    network = read(published, IJEPA)
    config = encoder(network, network.sizes.patch_size * square_side(network.published, 1), "sincos")
    known = published.preprocessor
    if str(known.get("image_processor_type")).startswith("ViTImageProcessor") and tuple(known.get("image_mean", HALF)) == HALF:
        note = "mean and deviation are those of I-JEPA's training; preprocessor_config.json has the converter's, 0.5"
        values: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "notes": (note,)}
    else:
        values = statistics(published, IMAGENET_MEAN, IMAGENET_STD)
    return Imported(config, network.weights, dropped=network.dropped, **values)


def convert_vit(published: Published) -> Imported:
    """Return the encoder of ViTModel, whose pooled features are the class token."""
    network = read(published, VIT)
    image_size = network.sizes.patch_size * square_side(without_class(network.published), 1)
    config = backbone(network, timm_sizes.VIT, image_size, 1e-6, activation(network))
    return pooled(Imported(config, network.weights, dropped=network.dropped, **statistics(published, HALF, HALF)), TOKEN)


def convert_dinov2(published: Published) -> Imported:
    """Return the encoder of DINOv2, whose pooled features are the class token."""
    network, names, args = read(published, DINOV2), timm_sizes.DINOV2, dict[str, TimmArgument]()
    positions = find(network.published, "pos_embed")
    image_size = network.sizes.patch_size * square_side(without_class(network.published), 1)
    weights = network.weights
    if network.settings.get("use_swiglu_ffn"):
        names = timm_sizes.DINOV2_SWIGLU
    else:
        args |= activation(network)
    if "reg_token" in weights:
        names = {name.replace("_dinov2", "_reg4_dinov2"): sizes for name, sizes in names.items()}
        args |= {"reg_tokens": count} if (count := weights["reg_token"].shape[1]) != 4 else {}
        # timm has no position for the class token beside registers: it is added to the token itself.
        weights |= {"cls_token": weights["cls_token"] + positions[:, :1], "pos_embed": positions[:, 1:]}
    config = backbone(network, names, image_size, 1e-6, args)
    return pooled(Imported(config, weights, dropped=network.dropped, **statistics(published, IMAGENET_MEAN, IMAGENET_STD)), TOKEN)


def convert_dinov3(published: Published) -> Imported:
    """Return the encoder of DINOv3, whose pooled features are the class token: timm's own default is the mean of the patches."""
    network, names = read(published, DINOV3), timm_sizes.DINOV3
    weights, settings = network.weights, network.settings
    args: dict[str, TimmArgument] = {"global_pool": "token"}
    gated = settings.get("use_gated_mlp", False)
    if settings["hidden_act"] != ("silu" if gated else "gelu"):
        raise UserError(
            f"the {'gated ' if gated else ''}MLPs of {published.path} have the activation {settings['hidden_act']}, but DINOv3 has "
            "silu in gated MLPs and gelu in others"
        )
    if gated:
        names = timm_sizes.DINOV3_GATED
        args |= {"swiglu_align_to": 1} if network.hidden % 8 else {}
    if (registers := weights["reg_token"].shape[1] if "reg_token" in weights else 0) != 4:
        args["num_reg_tokens"] = registers
    if settings["rope_theta"] != 100:
        args["rope_temperature"] = settings["rope_theta"]
    config = backbone(network, names, settings["image_size"], 1e-5, args)
    biased = "blocks.0.attn.q_bias" in weights or "blocks.0.attn.v_bias" in weights
    if biased != config.timm.endswith("_qkvb"):
        config = config.model_copy(update={"args": config.args | {"qkv_bias": biased}})
    if biased:
        for name in [f"blocks.{block}.attn.{part}_bias" for block in range(network.sizes.depth) for part in "qv"]:
            weights.setdefault(name, torch.zeros(network.sizes.embed_dim))
    return pooled(Imported(config, weights, dropped=network.dropped, **statistics(published, IMAGENET_MEAN, IMAGENET_STD)), TOKEN)


def convert_vjepa2(published: Published) -> Imported:
    """Return V-JEPA 2's encoder."""
    if later := [key for key in LATER if published.config.get(key)]:
        raise UserError(
            f"{published.path} is V-JEPA 2.1 ({later[0]} in its config.json), which is read in its official layout only: give that file"
        )
    network = read(published, VJEPA2)
    tubelet = find(network.published, "patch_embed.proj.weight").shape[2]
    settings = network.settings
    config = encoder(network, settings["crop_size"], "rope_tiled", tubelet, frames=settings["frames_per_clip"])
    clip = ClipConfig(stride=None, fps=4, spacing="window", short="hold")
    imported = Imported(config, network.weights, clip=clip, dropped=network.dropped, **statistics(published, IMAGENET_MEAN, IMAGENET_STD))
    return imported._replace(notes=(*imported.notes, "clips of 4 frames per second are those of V-JEPA 2's training; config.json has no rate"))
