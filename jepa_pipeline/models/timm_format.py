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
from jepa_pipeline.config.networks import Architecture
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.weights import EncoderCard

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


def timm_config(card: EncoderCard) -> dict[str, Any]:
    """What timm writes into config.json: the architecture, its arguments and the preprocessing."""
    encoder = card.encoder
    dim, depth, heads, ratio = encoder.size
    return {
        "architecture": ARCHITECTURES[encoder.arch],
        "num_classes": 0,
        "num_features": dim,
        "global_pool": "avg",
        "model_args": {
            "img_size": encoder.image_size,
            "patch_size": encoder.patch_size,
            "embed_dim": dim,
            "depth": depth,
            "num_heads": heads,
            "mlp_ratio": ratio,
            "class_token": False,
            "global_pool": "avg",
            "fc_norm": False,
        },
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [3, encoder.image_size, encoder.image_size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(card.mean),
            "std": list(card.std),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def write_timm(folder: Path, encoder: Encoder, card: EncoderCard) -> None:
    """Write model.safetensors and config.json."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(timm_config(card), indent=2) + "\n")


def load_timm(folder: Path) -> nn.Module:
    """The folder as timm itself reads it, in eval mode.

    Raises:
        RuntimeError: a weight is missing, left over or of another shape.
    """
    return timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True).eval()


@torch.inference_mode()
def timm_outputs(network: nn.Module, pixels: Float[Tensor, "B C H W"]) -> dict[str, Tensor]:
    """What users of timm take: tokens "B N D" of forward_features, pooled "B D" of forward."""
    return {"tokens": network.forward_features(pixels), "pooled": network(pixels)}  # pyright: ignore[reportCallIssue]
