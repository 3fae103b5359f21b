"""Classes of transformers that hold encoders of this package: IJepaModel, VJEPA2Model and ViTModel, with their config.json."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import jepa_pipeline._torchvision  # noqa: F401  # before timm
from jepa_pipeline.interop import hf_names
from jepa_pipeline.models.backbone import Backbone
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.interface import BaseEncoder
from timm.models.vision_transformer import VisionTransformer

ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_pytorch_tanh", "QuickGELU": "quick_gelu", "ReLU": "relu"}
"""Names of transformers for the classes of activations in timm."""


class Model(NamedTuple):
    """A class of transformers as the target of an export.

    Attributes:
        name: of the class.
        why_not: returns why the class has no such network, and the way out; None: it has it.
        config: returns the content of config.json.
        weights: returns the tensors by the names of transformers.
    """

    name: str
    why_not: Callable[[Any], str | None]
    config: Callable[[Any], dict[str, Any]]
    weights: Callable[[Any], dict[str, Tensor]]


def translated(encoder: BaseEncoder, table: hf_names.Table) -> dict[str, Tensor]:
    """Return an encoder's tensors by the names of transformers.

    Raises:
        KeyError: transformers has no such tensor.
    """
    return hf_names.translate({name: tensor.detach().cpu() for name, tensor in encoder.timm_module().state_dict().items()}, table)


def blocks_config(encoder: Encoder) -> dict[str, Any]:
    """Return the keys that IJepaConfig and VJEPA2Config share."""
    dim, depth, heads, _ = encoder.config.size
    return {
        "hidden_size": dim,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "patch_size": encoder.config.patch_size,
        "layer_norm_eps": encoder.norm.eps,
        "hidden_act": "gelu",
        "qkv_bias": True,
    }


def why_not_ijepa(encoder: Encoder) -> str | None:
    if encoder.config.rotary:
        return (
            f"has positions {encoder.config.positions}, but IJepaModel adds a table of positions to the patches: train with "
            "method.encoder.positions=sincos"
        )
    return None


def ijepa_config(encoder: Encoder) -> dict[str, Any]:
    """Return the content of config.json for IJepaModel."""
    dim, _, _, ratio = encoder.config.size
    image = {"image_size": encoder.config.image_size, "num_channels": encoder.config.in_channels}
    return {"model_type": "ijepa", **blocks_config(encoder), "intermediate_size": int(dim * ratio), **image}


def why_not_vjepa2(encoder: Encoder) -> str | None:
    config = encoder.config
    if config.attention == "causal":
        return (
            "has causal attention, but in VJEPA2Model every token attends to all others: train with method.encoder.attention=full"
        )
    if config.positions == "rope":
        return (
            "has positions rope, but VJEPA2Model has those of V-JEPA 2's release only, and would load these weights and give wrong "
            "features: train with method.encoder.positions=rope_tiled"
        )
    if config.positions != "rope_tiled":
        return (
            f"has positions {config.positions}, and no class of transformers adds such positions to clips: train with "
            "method.encoder.positions=rope_tiled"
        )
    return None


def vjepa2_config(encoder: Encoder) -> dict[str, Any]:
    """Return the content of config.json for VJEPA2Model, but for its predictor."""
    config = encoder.config
    return {
        "model_type": "vjepa2",
        **blocks_config(encoder),
        "mlp_ratio": config.size.mlp_ratio,
        "crop_size": config.image_size,
        "frames_per_clip": config.frames,
        "tubelet_size": config.tubelet_size,
        "in_chans": encoder.config.in_channels,
    }


def blocks_of(network: VisionTransformer) -> list[Any]:
    return list(network.blocks.children())


def why_not_vit(encoder: Backbone) -> str | None:
    network, name = encoder.network, encoder.config.timm
    way_out = "export it with --to timm, whose folders AutoModel of transformers reads too where timm is installed"
    if not isinstance(network, VisionTransformer) or network.cls_token is None or network.pos_embed is None:
        return f"is timm's {name}, no vision transformer with a class token: {way_out}"
    if network.global_pool != "token":
        return f"is timm's {name} with the pooling {network.global_pool}, but ViTModel pools the class token: {way_out}"
    if network.pos_embed.shape[1] != network.patch_embed.num_patches + 1:
        return f"is timm's {name} without a position for the class token: {way_out}"
    try:
        translated(encoder, hf_names.VIT)
    except KeyError as error:
        return f"is timm's {name}, whose {error.args[0]} ViTModel does not have: {way_out}"
    kinds = {type(block.mlp.act).__name__ for block in blocks_of(network)}
    if len(kinds) > 1 or not kinds <= ACTIVATIONS.keys():
        return f"is timm's {name} with the activation {', '.join(sorted(kinds))}, which ViTModel does not have: {way_out}"
    if len({module.eps for module in network.modules() if isinstance(module, nn.LayerNorm)}) > 1:
        return f"is timm's {name} with layer norms of several epsilons, but ViTModel has one: {way_out}"
    return None


def vit_config(encoder: Backbone) -> dict[str, Any]:
    """Return the content of config.json for ViTModel, with a pooler that gives the class token as it is."""
    network = encoder.network
    assert isinstance(network, VisionTransformer)
    blocks = blocks_of(network)
    weights = network.state_dict()
    return {
        "model_type": "vit",
        "hidden_size": network.embed_dim,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": blocks[0].attn.num_heads,
        "intermediate_size": len(weights["blocks.0.mlp.fc1.weight"]),
        "image_size": encoder.config.image_size,
        "patch_size": weights["patch_embed.proj.weight"].shape[-1],
        "num_channels": encoder.config.in_channels,
        "layer_norm_eps": network.norm.eps,
        "hidden_act": ACTIVATIONS[type(blocks[0].mlp.act).__name__],
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
        "pooler_act": "linear",
        "pooler_output_size": network.embed_dim,
    }


def vit_weights(encoder: Backbone) -> dict[str, Tensor]:
    """Return the tensors of ViTModel: transformers would fill a pooler that is missing with random numbers."""
    pooler = {"pooler.dense.weight": torch.eye(encoder.width), "pooler.dense.bias": torch.zeros(encoder.width)}
    return translated(encoder, hf_names.VIT) | pooler


IJEPA = Model("IJepaModel", why_not_ijepa, ijepa_config, lambda encoder: translated(encoder, hf_names.VIT))
VJEPA2 = Model("VJEPA2Model", why_not_vjepa2, vjepa2_config, lambda encoder: translated(encoder, hf_names.VJEPA2))
VIT = Model("ViTModel", why_not_vit, vit_config, vit_weights)


def check_model(encoder: BaseEncoder) -> tuple[Model | None, str | None]:
    """Return the class that may have such a network, and why it does not, with the way out; None: it has it."""
    if type(encoder) is Encoder:
        model = VJEPA2 if encoder.config.modality.has_time else IJEPA
    elif isinstance(encoder, Backbone):
        model = VIT
    else:
        return None, f"is {encoder.describe()[:1].lower()}{encoder.describe()[1:]}, of which transformers has no class"
    return model, model.why_not(encoder)


def find_model(encoder: BaseEncoder) -> Model:
    """Return the class of an encoder that one has."""
    model, _ = check_model(encoder)
    assert model is not None
    return model
