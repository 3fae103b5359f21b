"""An encoder in the format of timm's local folders: `timm.create_model("local-dir:FOLDER", pretrained=True)` gives it back."""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

import jepa_pipeline._torchvision  # noqa: F401  # before timm
import timm
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import Architecture
from jepa_pipeline.models.backbone import Backbone
from jepa_pipeline.models.build import AnyEncoder
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.stack import Stack
from jepa_pipeline.models.weights import EncoderCard, timm_named

ARCHITECTURES: dict[Architecture | None, str] = {
    "vit_tiny": "vit_tiny_patch16_224",
    "vit_small": "vit_small_patch16_224",
    "vit_base": "vit_base_patch16_224",
    "vit_large": "vit_large_patch16_224",
    "vit_huge": "vit_huge_patch14_gap_224",
    "vit_giant": "vit_giant_patch16_gap_224",
    None: "vit_base_patch16_224",
}
"""timm's name to start from; every size is said in model_args, so that sizes spelled out can start from any."""


def timm_config(encoder: Encoder | Backbone, card: EncoderCard) -> dict[str, Any]:
    """What timm writes into config.json: the architecture, its arguments and the preprocessing."""
    named = backbone_config(encoder) if isinstance(encoder, Backbone) else encoder_config(encoder)
    side = encoder.config.image_size
    preprocessing = {
        "num_classes": 0,
        "input_size": [3, side, side],
        "fixed_input_size": "img_size" in named["model_args"],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": list(card.mean),
        "std": list(card.std),
    }
    return {"num_classes": 0, "num_features": encoder.width, **named, "pretrained_cfg": preprocessing | named["pretrained_cfg"]}


def encoder_config(encoder: Encoder) -> dict[str, Any]:
    config, (dim, depth, heads, ratio) = encoder.config, encoder.config.size
    return {
        "architecture": ARCHITECTURES[config.arch],
        "global_pool": "avg",
        "model_args": {
            "img_size": config.image_size,
            "patch_size": config.patch_size,
            "embed_dim": dim,
            "depth": depth,
            "num_heads": heads,
            "mlp_ratio": ratio,
            "class_token": False,
            "global_pool": "avg",
            "fc_norm": False,
        },
        "pretrained_cfg": {"first_conv": "patch_embed.proj", "classifier": "head"},
    }


def backbone_config(backbone: Backbone) -> dict[str, Any]:
    published = backbone.network.pretrained_cfg
    return {
        "architecture": backbone.config.timm,
        "model_args": backbone.arguments,
        "pretrained_cfg": {key: published[key] for key in ("first_conv", "classifier")},  # pyright: ignore[reportArgumentType, reportIndexIssue]
    }


def check_nameable(encoder: AnyEncoder, run: str | Path) -> None:
    """Refuse an encoder that no name and arguments of timm's describe.

    Raises:
        UserError: it is a stack, has a small stem, or is of clips, or has rotary positions.
    """
    if isinstance(encoder, Stack):
        first = "" if encoder.config.clips else ", or its first level, a plain vision transformer, with --level 1"
        raise UserError(
            f"the encoder of {run} is a stack of {len(encoder.encoders)} levels, and timm has no such network: export it with "
            f"--to jepa{first}"
        )
    if isinstance(encoder, Encoder) and (encoder.config.clips or encoder.config.rotary):
        kind = "is one of clips" if encoder.config.clips else f"has rotary positions ({encoder.config.positions})"
        raise UserError(
            f"the encoder of {run} {kind}, and timm has no such network: export it with --to jepa, or load it with "
            f"jepa_pipeline.load_encoder('{run}')"
        )
    if isinstance(encoder, Backbone) and encoder.config.small_stem:
        raise UserError(
            f"the encoder of {run} has a small_stem, which timm's {encoder.config.timm} cannot be told to have: "
            f"export it with --to jepa, or load it with jepa_pipeline.load_encoder('{run}'), whose .network is timm's with it"
        )


def write_timm(folder: Path, encoder: Encoder | Backbone, card: EncoderCard) -> None:
    """Write model.safetensors and config.json."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in timm_named(encoder).state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(timm_config(encoder, card), indent=2) + "\n")


def load_timm(folder: Path) -> nn.Module:
    """The folder as timm itself reads it, in eval mode.

    Raises:
        RuntimeError: a weight is missing, left over or of another shape.
    """
    return timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True).eval()


@torch.inference_mode()
def timm_outputs(network: nn.Module, pixels: Float[Tensor, "B C H W"]) -> dict[str, Tensor]:
    """What users of timm take, by its name: tokens "B N D" or maps of forward_features, vectors "B D" of forward."""
    return {"forward_features": network.forward_features(pixels), "forward": network(pixels)}  # pyright: ignore[reportCallIssue]
