"""Small random networks of transformers, written as transformers writes them, are the same networks here."""

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

import jepa_pipeline._torchvision  # noqa: F401
from jepa_pipeline.config.published import GivenConfig
from jepa_pipeline.interop.families import choose_family
from jepa_pipeline.interop.importing import convert
from jepa_pipeline.interop.published import Imported
from jepa_pipeline.interop.reading import read_weights
from jepa_pipeline.models.build import build_encoder

TOLERANCE = 1e-5
BLOCKS = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGES = {**BLOCKS, "image_size": 32, "patch_size": 8}
VIT = {**IMAGES, "intermediate_size": 40}
CLIPS = {**BLOCKS, "crop_size": 32, "patch_size": 8, "frames_per_clip": 4, "tubelet_size": 2, "mlp_ratio": 2.0}
PREDICTOR = {"pred_hidden_size": 12, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1, "pred_num_mask_tokens": 2}
NETWORKS = {
    "ijepa": ("IJepaModel", {**VIT, "layer_norm_eps": 1e-6}),
    "ijepa as its config defaults": ("IJepaModel", VIT),
    "vit": ("ViTModel", VIT),
    "vit without biases": ("ViTModel", {**VIT, "qkv_bias": False, "hidden_act": "gelu_new"}),
    "vit with a classifier": ("ViTForImageClassification", VIT),
    "dinov2": ("Dinov2Model", {**IMAGES, "mlp_ratio": 2, "layerscale_value": 0.7}),
    "dinov2 swiglu": ("Dinov2Model", {**IMAGES, "mlp_ratio": 2, "use_swiglu_ffn": True}),
    "dinov2 registers": ("Dinov2WithRegistersModel", {**IMAGES, "mlp_ratio": 2, "num_register_tokens": 4}),
    "dinov2 registers swiglu": (
        "Dinov2WithRegistersModel",
        {**IMAGES, "mlp_ratio": 2, "num_register_tokens": 3, "use_swiglu_ffn": True},
    ),
    "dinov3": ("DINOv3ViTModel", {**VIT, "num_register_tokens": 4}),
    "dinov3 gated": ("DINOv3ViTModel", {**VIT, "num_register_tokens": 0, "use_gated_mlp": True, "hidden_act": "silu"}),
    "dinov3 without biases": ("DINOv3ViTModel", {**VIT, "query_bias": False, "value_bias": False, "layer_norm_eps": 1e-6}),
    "dinov3 with one bias": ("DINOv3ViTModel", {**VIT, "query_bias": False}),
    "vjepa2": ("VJEPA2Model", {**CLIPS, **PREDICTOR}),
}


def make(name: str) -> torch.nn.Module:
    """Return a random network whose norms, biases and tokens are all away from their initial values."""
    class_name, values = NETWORKS[name]
    network_class = getattr(transformers, class_name)
    torch.manual_seed(3)
    network = network_class(network_class.config_class(**values)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


def write(folder: Path, network: torch.nn.Module, newer: bool = False) -> Path:
    """Write a folder as transformers does; with the newer names, as it does for a network that was read under them."""
    network.save_pretrained(folder)
    if newer:
        save_file(network.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def read(folder: Path, name: str | None = None) -> Imported:
    weights = read_weights(folder, None, GivenConfig(), lambda done, total: None)
    return convert(*choose_family(weights.published, name))


def encoder_of(imported: Imported):
    encoder = build_encoder(imported.config)
    encoder.timm_module().load_state_dict(imported.weights)
    return encoder.eval()


@torch.inference_mode()
def difference(network: torch.nn.Module, imported: Imported) -> float:
    """Return the largest difference of the tokens of the patches, and of the pooled features where transformers has the same."""
    encoder, config = encoder_of(imported), imported.config
    shape = (2, 3, config.frames, 32, 32) if config.frames > 1 else (3, 3, 32, 32)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    ours = encoder.intermediates(pixels, 1)[-1]
    if config.frames > 1:
        theirs = network.get_vision_features(pixels.transpose(1, 2))
        return float((ours - theirs).abs().max())
    theirs = getattr(network, "vit", network)(pixels).last_hidden_state
    prefix = theirs.shape[1] - ours.shape[1]
    pooled = theirs[:, 0] if prefix else theirs.mean(1)
    return max(float((ours - theirs[:, prefix:]).abs().max()), float((encoder.pooled(pixels) - pooled).abs().max()))


@pytest.mark.parametrize("newer", [False, True], ids=["older names", "newer names"])
@pytest.mark.parametrize("name", NETWORKS)
def test_folders_of_transformers_are_the_same_network(tmp_path, name, newer):
    network = make(name)
    imported = read(write(tmp_path / "folder", network, newer))
    found = difference(network, imported)
    print(name, found)
    assert found <= TOLERANCE
