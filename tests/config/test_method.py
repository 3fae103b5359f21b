"""Configurations answer for themselves: modality, mask sets and grids by level, distances."""

from pathlib import Path

import pytest

from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.modality import CLIP, IMAGE
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig

DEBUG = Path(__file__).parents[2] / "configs/debug"
RECIPES = sorted(path.stem for path in DEBUG.glob("*.yaml"))


def method(name, *overrides):
    return load_config(DEBUG / f"{name}.yaml", overrides).method


@pytest.mark.parametrize("name", RECIPES)
def test_levels_agree(name):
    config = method(name)
    assert config.encoders[0].modality is config.encoder.modality
    if config.mask_sets:
        assert len(config.level_masks) == len(config.grids) == len(config.distances) == len(config.encoders)
        assert [encoder.clip_grid for encoder in config.encoders] == list(config.grids)
    else:
        assert config.level_masks == config.grids == config.distances == () and config.compares_samples


def test_modality_follows_frames():
    assert EncoderConfig(arch="vit_tiny").modality is IMAGE and BackboneConfig(timm="resnet18").modality is IMAGE
    assert EncoderConfig(arch="vit_tiny", frames=2).modality is CLIP
    assert EncoderConfig(arch="vit_tiny", frames=2, tubelet_size=2).modality is CLIP
    assert not CLIP.cropped_on_device and "videos" in CLIP.data_kinds and IMAGE.data_kinds == ("images",)


def test_only_the_future():
    assert not method("ijepa").predicts_only_future and not method("vicreg").predicts_only_future
    assert method("vjepa", "method.masks=[{name: causal}]").predicts_only_future
    assert not method("hjepa").predicts_only_future  # its first level predicts masked blocks


def test_frames_key_is_a_key():
    assert method("vjepa").frames_key == "method.encoder.frames" and method("ijepa").frames_key is None
    assert method("hjepa").frames_key == "method.levels.0.encoder.frames"
