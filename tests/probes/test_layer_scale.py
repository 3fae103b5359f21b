"""Untrained networks with LayerScale are no baselines, which probes say."""

import pytest
import torch

from jepa_pipeline.config.networks import BackboneConfig
from jepa_pipeline.models.weights import EncoderCard
from jepa_pipeline.probes.evaluate import build_extractors, build_untrained
from jepa_pipeline.probes.layer_scale import layer_scale

VIT = {"depth": 2, "embed_dim": 24, "num_heads": 2, "patch_size": 8}
NETWORKS = {
    "vit": ("vit_tiny_patch16_224", VIT, None),
    "dinov2": ("vit_small_patch14_dinov2", VIT, 1e-5),
    "dinov3": ("vit_small_patch16_dinov3_qkvb", VIT, 1e-5),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 16)}, 1e-6),
    "from one": ("vit_small_patch14_dinov2", {**VIT, "init_values": 1.0}, None),
    "resnet": ("resnet18", {"channels": (8, 8, 16, 16)}, None),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_probes_say_that_the_untrained_baseline_is_none(capsys, name):
    architecture, args, scale = NETWORKS[name]
    config = BackboneConfig(timm=architecture, image_size=32, args=args)
    found = layer_scale(untrained := build_untrained(config, seed=0))
    assert found == (None if scale is None else pytest.approx(scale))
    hashes = {"config_hash": "", "data_hash": "", "version": "0"}
    card = EncoderCard(encoder=config, mean=(0,) * 3, std=(1,) * 3, name="x", method="vit", step=0, samples=0, **hashes)
    build_extractors(card, untrained, level=None, seed=0, clips=False)
    assert ("random_init is not a fair baseline" in " ".join(capsys.readouterr().out.split())) == (scale is not None)


@torch.inference_mode()
def test_their_class_token_is_the_same_for_all_images():
    untrained = build_untrained(BackboneConfig(timm=NETWORKS["dinov2"][0], image_size=32, args=VIT), seed=0)
    features = untrained.pooled(torch.randn(8, 3, 32, 32))
    assert (features - features[0]).abs().max() < 1e-3
