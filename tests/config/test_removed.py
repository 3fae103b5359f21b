"""Keys of earlier versions are refused in recipes with a sentence on what to do now, and upgraded in saved configurations."""

import re
import subprocess
import sys

import pytest

from jepa_pipeline.config.encoder_card import EncoderCard
from jepa_pipeline.config.errors import ConfigError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.parse import dotted_keys
from jepa_pipeline.config.removed import REMOVED_KEYS, REMOVED_VALUES, RENAMED_KEYS, removed_key, upgrade_saved
from jepa_pipeline.config.run import RunConfig

IMAGES = """\
name: x
data: {train: shards}
method: {name: ijepa, encoder: {arch: vit_tiny}}
optim: {name: lars, lr: 1, total_samples: 4096}
views: {crops: [{flip: 0.5}]}
"""
CLIPS = """\
name: x
data: {train: shards}
method:
  name: vjepa
  encoder: {arch: vit_tiny, frames: 8, tubelet_size: 2}
  masks: [{name: blocks}]
optim: {total_samples: 4096}
"""
STACK = """\
name: x
data: {train: shards}
method:
  name: hjepa
  levels:
    - encoder: {arch: vit_tiny}
      task: {name: masked, masks: [{name: multiblock}]}
optim: {total_samples: 4096}
"""
REMOVED = [
    (IMAGES, "data.window_shards=8", "16 shards are always shuffled together"),
    (IMAGES, "checkpoint.keep_every=1000", "keep snapshots with probing.every_steps"),
    (IMAGES, "checkpoint.leave_within_s=60", "within 120 s"),
    (IMAGES, "health.vectors=64", "2048 vectors"),
    (IMAGES, "health.vectors_per_step=16", "64 vectors"),
    (IMAGES, "optim.trust_coefficient=0.01", "LARS always uses 0.001"),
    (IMAGES, "views.largest_side=320", "640 pixels"),
    (IMAGES, "views.crops.0.grey=0.2", "spelled gray now"),
    (IMAGES, "method.masks.legacy_min_keep=8", "always 10"),
    (CLIPS, "method.masks.0.edges=within", "blocks wrap around the edges"),
    (STACK, "method.levels.0.task.masks.0.legacy_min_keep=8", "always 10"),
    (STACK, "method.levels.0.question.name=masked", "called task now"),
]


def refusal(tmp_path, text, *overrides):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(path, overrides)
    return str(raised.value).replace(str(path), "FILE").splitlines()


@pytest.mark.parametrize(("text", "override", "cure"), REMOVED, ids=[override for _, override, _ in REMOVED])
def test_removed_key_names_its_cure(tmp_path, text, override, cure):
    key = override.partition("=")[0]
    if ".question" in key:
        key = key.removesuffix(".name")
    (line,) = refusal(tmp_path, text, override)
    assert line.startswith(f"command line '{override}': key '{key}' no longer exists: ") and cure in line


def test_removed_key_in_a_file_is_reported_at_its_line(tmp_path):
    assert refusal(tmp_path, IMAGES + "health:\n  vectors: 64\n")[0].startswith("FILE:7: key 'health.vectors' no longer exists")


def test_removed_value_names_its_cure(tmp_path):
    assert refusal(tmp_path, CLIPS + "views:\n  clip:\n    start: centre\n") == [
        "FILE:10: 'views.clip.start' is 'centre': it is spelled center now"
    ]


def test_every_pattern_has_a_test_and_matches_no_present_key():
    removed = [override.partition("=")[0].removesuffix(".name") for _, override, _ in REMOVED]
    for pattern in RENAMED_KEYS | REMOVED_KEYS:
        assert any(re.fullmatch(pattern, key) for key in removed), pattern
    assert not [key for key in dotted_keys(RunConfig) if removed_key(key)]
    assert set(REMOVED_VALUES) == {("views.clip.start", "centre")}


def test_command_exits_with_code_2(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(IMAGES + "health: {vectors: 64}\n")
    done = subprocess.run([sys.executable, "-m", "jepa_pipeline", "config", "check", str(path)], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f"{path}:6: key 'health.vectors' no longer exists: ")


SAVED = [
    ("data.window_shards", 16, 8),
    ("checkpoint.keep_every", None, 1000),
    ("checkpoint.leave_within_s", 120.0, 60.0),
    ("health.vectors", 2048, 64),
    ("health.vectors_per_step", 64, 16),
    ("optim.trust_coefficient", 0.001, 0.01),
    ("views.largest_side", 640, 320),
    ("method.masks.0.edges", "wrap", "within"),
    ("method.levels.1.task.masks.0.edges", "wrap", "within"),
    ("method.masks.legacy_min_keep", 10, 8),
    ("method.masks.0.legacy_min_keep", 10, 8),
    ("method.levels.1.task.masks.0.legacy_min_keep", 10, 8),
]


@pytest.mark.parametrize(("key", "constant", "other"), SAVED, ids=[key for key, _, _ in SAVED])
def test_saved_key_is_dropped_only_with_the_value_that_is_always_used_now(key, constant, other):
    assert upgrade_saved({key: constant, "seed": 0}) == {"seed": 0}
    assert upgrade_saved({key: other, "seed": 0}) == {key: other, "seed": 0}


def test_saved_keys_are_renamed_by_dotted_key_and_in_sections():
    dotted = {
        "views.crops.1.grey": 0.2,
        "views.clip.start": "centre",
        "method.levels.0.question.name": "masked",
        "method.levels.0.question.masks.0.edges": "wrap",
        "method.levels.0.question.masks.1.edges": "within",
    }
    assert upgrade_saved(dotted) == {
        "views.crops.1.gray": 0.2,
        "views.clip.start": "center",
        "method.levels.0.task.name": "masked",
        "method.levels.0.task.masks.1.edges": "within",
    }
    masks = [{"name": "blocks", "edges": "wrap"}, {"name": "blocks", "edges": "within"}]
    nested = {
        "views": {"crops": [{"flip": 0.5}, {"grey": 0.2}], "clip": {"start": "centre"}, "mean": [0.5, 0.5, 0.5]},
        "method": {"levels": [{"question": {"name": "masked", "masks": masks}}]},
    }
    assert upgrade_saved(nested) == {
        "views": {"crops": [{"flip": 0.5}, {"gray": 0.2}], "clip": {"start": "center"}, "mean": [0.5, 0.5, 0.5]},
        "method": {"levels": [{"task": {"name": "masked", "masks": [{"name": "blocks"}, masks[1]]}}]},
    }


def test_run_folder_of_an_earlier_version_is_loaded_and_other_values_are_refused(tmp_path):
    path = tmp_path / "config.yaml"
    text = IMAGES.replace("data: {train: shards}", "data: {train: shards, window_shards: 16}").replace("flip: 0.5", "grey: 0.2")
    path.write_text(text + "health: {vectors: 2048}\n")
    assert load_config(tmp_path).views.crops[0].gray == 0.2
    with pytest.raises(ConfigError, match=r"config.yaml:2: key 'data.window_shards' no longer exists"):
        load_config(path)  # as a recipe
    path.write_text(text + "health: {vectors: 64}\n")
    with pytest.raises(ConfigError, match=r"config.yaml:6: key 'health.vectors' no longer exists") as raised:
        load_config(tmp_path)
    assert len(str(raised.value).splitlines()) == 1


def test_card_of_an_earlier_version_is_loaded():
    origin = {"name": "x", "method": "vjepa", "step": 1, "samples": 8, "config_hash": "0", "data_hash": "0", "version": "0"}
    values = {"encoder": {"arch": "vit_tiny", "frames": 8}, "mean": (0, 0, 0), "std": (1, 1, 1), "clip": {"start": "centre"}}
    card = EncoderCard.model_validate(values | origin)
    assert card.clip is not None and card.clip.start == "center"
