"""Encoders in folders of transformers: IJepaModel, VJEPA2Model, ViTModel, Dinov2Model, Dinov2WithRegistersModel and DINOv3ViTModel.

Also those in networks with a head, such as ViTForImageClassification, without it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig, Size, TimmArgument
from jepa_pipeline.config.views import IMAGENET_MEAN, IMAGENET_STD
from jepa_pipeline.interop import timm_sizes
from jepa_pipeline.interop.folder_values import read_preprocessing
from jepa_pipeline.interop.hf_checks import check_heads, check_image_size, default
from jepa_pipeline.interop.hf_layouts import DINOV2, DINOV3, IJEPA, LATER, VIT, VJEPA2, Layout, Network, read
from jepa_pipeline.interop.official import Sizes, encoder_config, find, first_mistake, square_side
from jepa_pipeline.interop.published import Family, Imported, Published

HALF = (0.5, 0.5, 0.5)
ACTIVATIONS: dict[str, dict[str, TimmArgument]] = {
    "gelu": {},
    "gelu_new": {"act_layer": "gelu_tanh"},
    "gelu_pytorch_tanh": {"act_layer": "gelu_tanh"},
    "quick_gelu": {"act_layer": "quick_gelu"},
    "relu": {"act_layer": "relu"},
}
"""Activations of MLPs by the names of transformers, with timm's argument."""
TOKEN = "pooled features are the class token after the last norm; the pooler of transformers, if it has one, is left out"
TOKEN_OF_DINOV3 = "pooled features are the class token after the last norm, as DINOv3's are; timm itself pools patches"
MEAN = "pooled features are the mean of the patches; transformers gives none"
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and std per channel."""
IMAGENET: Statistics = (IMAGENET_MEAN, IMAGENET_STD)


def finish(
    network: Network,
    config: EncoderConfig | BackboneConfig,
    default: Statistics,
    *notes: str,
    weights: dict[str, Tensor] | None = None,
    converter: Statistics | None = None,
) -> Imported:
    """Return an encoder with the mean and std of preprocessor_config.json.

    Args:
        network: the network.
        config: of the encoder.
        default: mean and std where the folder has none, which the notes then say.
        notes: for the card.
        weights: those of the network if they are not as read.
        converter: mean and std that the folder has from its converter, and not from its training: replaced by the default.
    """
    told = read_preprocessing(network.published, config.in_channels)
    given = network.published.given
    if told.mean is None or told.std is None:
        mean, std = told.fold(*default)
    else:
        mean, std = told.fold(told.mean, told.std)
    if given.mean and given.std:
        mean, std = given.mean, given.std
    elif told.mean is None:
        notes += (f"the folder has no mean and std; the published {default[0]} and {default[1]} are used",)
    elif (mean, std) == converter:
        notes += (f"mean and std are those of the training, not the converter's {mean} and {std}",)
        mean, std = default
    return Imported(config, weights or network.weights, mean, std, notes=notes, dropped=network.dropped)


def encoder(network: Network, image_size: int, positions: str, tubelet: int = 1, **values: Any) -> EncoderConfig:
    """Return the configuration of an encoder of this package.

    Raises:
        UserError: the sizes do not fit each other, or the network has another activation.
    """
    activation = network.settings["hidden_act"]
    if activation != "gelu":
        raise UserError(
            f"hidden_act in config.json of {network.published.path} is {activation}, but the MLPs of I-JEPA and V-JEPA 2 have gelu"
        )
    sizes = network.sizes
    size = Size(sizes.embed_dim, sizes.depth, sizes.num_heads, sizes.mlp_ratio)
    return encoder_config(
        network.published,
        Sizes(tubelet, sizes.patch_size, size, ()),
        image_size=image_size,
        positions=positions,
        norm_eps=None if network.settings["layer_norm_eps"] == 1e-6 else network.settings["layer_norm_eps"],
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
    found = network.settings["layer_norm_eps"]
    try:
        return BackboneConfig(
            timm=name,
            image_size=image_size,
            in_channels=find(network.published, "patch_embed.proj.weight").shape[1],
            norm_eps=None if found == eps else found,
            args=sizes | args,
        )
    except ValidationError as error:
        raise UserError(f"the network in {network.published.path} cannot be built: {first_mistake(error)}") from None


def activation(network: Network) -> dict[str, TimmArgument]:
    """Return timm's argument for the activation.

    Raises:
        UserError: timm has no such activation.
    """
    name = network.settings["hidden_act"]
    if name not in ACTIVATIONS:
        raise UserError(
            f"hidden_act in config.json of {network.published.path} is {name}, but only {', '.join(ACTIVATIONS)} are read"
        )
    return ACTIVATIONS[name]


def image_size_of(network: Network, prefix: int = 1) -> int:
    """Return the height and width of the images for whose patches there are positions, behind those of other tokens.

    Raises:
        UserError: they are not a square grid, or config.json says another size.
    """
    published, patch_size = network.published, network.sizes.patch_size
    tensors = {**published.tensors, "pos_embed": find(published, "pos_embed")[:, prefix:]}
    size = patch_size * square_side(published._replace(tensors=tensors), 1)
    check_image_size(published, network.settings, patch_size, size)
    return size


def convert_ijepa(published: Published) -> Imported:
    """Return I-JEPA's encoder, with the mean and std of its training, which the converter of transformers did not write."""
    network = read(published, IJEPA)
    config = encoder(network, image_size_of(network, prefix=0), "sincos")
    default_of_vit = str(published.preprocessor.get("image_processor_type")).startswith("ViTImageProcessor")
    return finish(network, config, IMAGENET, MEAN, converter=(HALF, HALF) if default_of_vit else None)


def convert_vit(published: Published) -> Imported:
    """Return the encoder of ViTModel, whose pooled features are the class token."""
    network = read(published, VIT)
    config = backbone(network, timm_sizes.VIT, image_size_of(network), 1e-6, activation(network))
    return finish(network, config, (HALF, HALF), TOKEN)


def convert_dinov2(published: Published) -> Imported:
    """Return the encoder of DINOv2, whose pooled features are the class token."""
    network = read(published, DINOV2)
    weights, swiglu = network.weights, network.settings["use_swiglu_ffn"]
    names = timm_sizes.DINOV2_SWIGLU if swiglu else timm_sizes.DINOV2
    args = {} if swiglu else dict(activation(network))
    if "reg_token" in weights:
        if published.config["model_type"] == "dinov2":
            raise UserError(
                f"the config.json of {published.path} says model_type: dinov2, but its weights hold register tokens: correct it to "
                "dinov2_with_registers, or copy the folder again"
            )
        names = {name.replace("_dinov2", "_reg4_dinov2"): sizes for name, sizes in names.items()}
        args |= {"reg_tokens": count} if (count := weights["reg_token"].shape[1]) != 4 else {}
        # timm has no position for the class token beside registers: it is added to the token itself.
        positions = find(network.published, "pos_embed")
        weights |= {"cls_token": weights["cls_token"] + positions[:, :1], "pos_embed": positions[:, 1:]}
    config = backbone(network, names, image_size_of(network), 1e-6, args)
    return finish(network, config, IMAGENET, TOKEN, weights=weights)


def convert_dinov3(published: Published) -> Imported:
    """Return the encoder of DINOv3, whose pooled features are the class token: timm's own default is the mean of the patches."""
    network = read(published, DINOV3)
    weights, settings, gated = network.weights, network.settings, network.settings["use_gated_mlp"]
    if settings["hidden_act"] != ("silu" if gated else "gelu"):
        raise UserError(
            f"hidden_act in config.json of {published.path} is {settings['hidden_act']}{default(published, 'hidden_act')} and "
            f"use_gated_mlp {str(gated).lower()}, but DINOv3 in timm has silu in gated MLPs and gelu in others"
        )
    check_heads(published, network.sizes, multiple=4)  # which its rotary positions need
    args: dict[str, TimmArgument] = {"global_pool": "token"}
    if gated and network.hidden % 8:
        args["swiglu_align_to"] = 1
    if (registers := weights["reg_token"].shape[1] if "reg_token" in weights else 0) != 4:
        args["num_reg_tokens"] = registers
    if settings["rope_theta"] != 100:
        args["rope_temperature"] = settings["rope_theta"]
    names = timm_sizes.DINOV3_GATED if gated else timm_sizes.DINOV3
    config = backbone(network, names, settings["image_size"], 1e-5, args)
    biased = settings["query_bias"] or settings["value_bias"]  # of one alone, the other is zero
    if not biased:
        weights = {name: tensor for name, tensor in weights.items() if not name.endswith(("attn.q_bias", "attn.v_bias"))}
    if biased != config.timm.endswith("_qkvb"):
        config = config.model_copy(update={"args": config.args | {"qkv_bias": biased}})
    return finish(network, config, IMAGENET, TOKEN_OF_DINOV3, weights=weights)


def convert_vjepa2(published: Published) -> Imported:
    """Return V-JEPA 2's encoder. Its positions are `rope_tiled`; the same weights would load with `rope` without an error."""
    if later := [key for key in LATER if published.config.get(key) not in (None, False)]:
        raise UserError(
            f"{published.path} is V-JEPA 2.1 ({later[0]} in its config.json), which is read from its official file only: give "
            "that, with --as vjepa2.1"
        )
    network = read(published, VJEPA2)
    tubelet, settings = find(network.published, "patch_embed.proj.weight").shape[2], network.settings
    config = encoder(network, settings["crop_size"], "rope_tiled", tubelet, frames=settings["frames_per_clip"])
    imported = finish(network, config, IMAGENET, MEAN, "4 frames per second are those of the training; its folder has no rate")
    return imported._replace(clip=ClipConfig(stride=None, fps=4, spacing="window", short="hold"))


def family(name: str, layout: Layout, convert: Callable[[Published], Imported], description: str) -> Family:
    def recognize(published: Published) -> bool:
        return published.config.get("model_type") in layout.types

    return Family(name, f"folders of transformers with {description}", recognize, convert)


HUGGING_FACE = (
    family("ijepa", IJEPA, convert_ijepa, "IJepaModel"),
    family("vjepa2", VJEPA2, convert_vjepa2, "VJEPA2Model"),
    family("vit", VIT, convert_vit, "ViTModel"),
    family("dinov2", DINOV2, convert_dinov2, "Dinov2Model or Dinov2WithRegistersModel"),
    family("dinov3", DINOV3, convert_dinov3, "DINOv3ViTModel"),
)
