"""Folders that timm writes, and weights for timm's names, are the same networks here."""

import pytest
import torch

import jepa_pipeline._torchvision  # noqa: F401
import timm
from jepa_pipeline.config.published import GivenConfig
from jepa_pipeline.interop.families import choose_family
from jepa_pipeline.interop.importing import convert
from jepa_pipeline.interop.reading import read_weights
from jepa_pipeline.models.build import build_encoder

VIT = {"depth": 2, "embed_dim": 24, "num_heads": 2, "patch_size": 8, "img_size": 32}
NETWORKS = {
    "vit": ("vit_tiny_patch16_224", VIT),
    "vit of patches alone": ("vit_tiny_patch16_224", {**VIT, "class_token": False, "global_pool": "avg"}),
    "dinov2": ("vit_small_patch14_reg4_dinov2", VIT),
    "dinov3": ("vit_small_patch16_dinov3_qkvb", VIT),
    "resnet": ("resnet18", {"channels": (8, 8, 16, 16)}),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 16)}),
}


def make(name, **values):
    torch.manual_seed(3)
    network = timm.create_model(NETWORKS[name][0], **NETWORKS[name][1], **values).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return network


def read(source, name=None, **given):
    weights = read_weights(source, None, GivenConfig(**given), lambda done, total: None)
    return convert(*choose_family(weights.published, name))


@pytest.mark.parametrize("classes", [0, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_folders_of_timm_are_the_same_network(tmp_path, name, classes):
    network = make(name, num_classes=classes)
    timm.models.save_for_hf(network, tmp_path / "folder", model_args=NETWORKS[name][1])
    imported = read(tmp_path / "folder")
    encoder = build_encoder(imported.config)
    encoder.timm_module().load_state_dict(imported.weights)
    side = imported.config.image_size
    pixels = torch.randn(2, 3, side, side)
    network.reset_classifier(0)
    with torch.inference_mode():
        assert torch.allclose(encoder.eval().pooled(pixels), network(pixels), atol=1e-6)
        assert torch.equal(encoder.forward_features(pixels), network.forward_features(pixels))
    print(name, imported.config, imported.notes, imported.dropped)
