"""A key that is added with a default leaves earlier runs as they were: the same results and hash, so that they can be resumed."""

import re

import pytest

from jepa_pipeline.config.errors import ConfigError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.removed import ADDED_KEYS, result_value

RECIPES = {
    "clips": """\
name: x
data: {train: shards}
method:
  name: vjepa2
  encoder: {arch: vit_tiny, frames: 8, tubelet_size: 2}
optim: {total_samples: 4096, clip_norm: 1.0}
""",
    "stack": """\
name: x
data: {train: shards}
method:
  name: hjepa
  levels:
    - encoder: {arch: vit_tiny}
      task: {name: masked, masks: [{name: multiblock}]}
    - encoder: {stride: {space: 2}, embed_dim: 96, depth: 1, num_heads: 3}
      task: {name: masked, masks: [{name: multiblock, target_scale: [0.18, 0.25], context_keep: 0.24}]}
optim: {total_samples: 4096}
""",
}
OTHER = {
    "data.bits": "8",
    "views.interpolation": "bilinear",
    "views.antialias": "false",
    "views.clip.spacing": "window",
    "method.encoder.init_depth_scaling": "true",
    "method.encoder.norm_eps": "1e-5",
    "method.predictor.init_depth_scaling": "true",
    "method.predictor.mask_token_std": "0",
    "method.predictor.shared_mask_token": "true",
    "optim.clip_after_warmup": "true",
}

CHANNELS = ("data.channels", "method.levels.0.encoder.in_channels")
"""Keys that change together, and with the number of values of views.mean and views.std."""


@pytest.fixture(params=RECIPES)
def recipe(request, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPES[request.param])
    return path


def added(key):
    return any(re.fullmatch(pattern, key) for pattern in ADDED_KEYS)


def test_defaults_are_left_out_of_the_results(recipe):
    config = load_config(recipe)
    assert not [key for key in config.results() if added(key)]
    dumped = config.model_dump(mode="json")
    assert dumped["views"]["interpolation"] == "bicubic" and dumped["optim"]["clip_after_warmup"] is False


@pytest.mark.parametrize(("key", "value"), OTHER.items(), ids=OTHER)
def test_another_value_is_another_run(tmp_path, key, value):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPES["clips"])
    plain, other = load_config(path), load_config(path, [f"{key}={value}"])
    changed = other.results().keys() - plain.results().keys()
    assert changed == {key} and other.hash() != plain.hash()
    assert result_value(plain.results(), key) != result_value(other.results(), key) is not None


def test_another_number_of_channels_is_another_run(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPES["stack"])
    plain, other = load_config(path), load_config(path, ["data.channels=2", "views.mean=[0.5, 0.5]", "views.std=[0.5, 0.5]"])
    assert other.results().keys() - plain.results().keys() == {*CHANNELS} and other.hash() != plain.hash()


def test_every_added_key_has_a_test():
    assert all(any(re.fullmatch(pattern, key) for key in (*OTHER, *CHANNELS)) for pattern in ADDED_KEYS)
    assert all(added(key) for key in (*OTHER, *CHANNELS))


@pytest.mark.parametrize("key", ["mask_token_std=0", "shared_mask_token=true"])
def test_mask_tokens_of_a_task_without_masks_are_refused(tmp_path, key):
    path = tmp_path / "recipe.yaml"
    forward = RECIPES["stack"].partition("    - encoder: {arch")[0] + (
        "    - encoder: {arch: vit_tiny, frames: 8, tubelet_size: 2, attention: causal}\n      task: {name: forward}\n"
        "optim: {total_samples: 4096}\n"
    )
    path.write_text(forward)
    load_config(path)
    with pytest.raises(ConfigError, match=rf"predictor.{key.partition('=')[0]} is set, but a forward task has no mask tokens"):
        load_config(path, [f"method.levels.0.predictor.{key}"])


def test_clipping_after_the_warm_up_needs_a_norm(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPES["stack"])
    with pytest.raises(ConfigError, match="clip_after_warmup is true, but clip_norm is null: set clip_norm, or remove"):
        load_config(path, ["optim.clip_after_warmup=true"])
