"""The recipes that claim a paper's constants have those of its released code; other tests state the formulas of each option."""

from pathlib import Path

import pytest

import timm
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.removed import result_value

CONFIGS = Path(__file__).parents[1] / "configs"
TORCHVISION = {"views.interpolation": "bilinear", "views.antialias": True}
"""RandomResizedCrop on images of Pillow, as it is without arguments."""
BICUBIC = {"views.interpolation": "bicubic", "views.antialias": True}
"""RandomResizedCrop on images of Pillow with interpolation=BICUBIC."""
TENSORFLOW = {"views.interpolation": "bicubic", "views.antialias": False}
V_JEPA = {
    "views.interpolation": "bilinear",
    "views.antialias": False,
    "views.clip.spacing": "window",
    "views.clip.short": "hold",
}
RELEASED = {
    "ijepa_vith14": TORCHVISION | {"method.predictor.mask_token_std": 0.02, "method.encoder.init_depth_scaling": False},
    "vjepa_vitl16": V_JEPA
    | {
        "views.clip.stride": 4,
        "method.predictor.mask_token_std": 0,
        "method.predictor.shared_mask_token": False,
        "method.encoder.init_depth_scaling": False,
        "optim.clip_norm": 10,
        "optim.clip_after_warmup": True,
    },
    "vjepa2_vitl16": V_JEPA
    | {
        "views.clip.fps": 4,
        "method.encoder.init_depth_scaling": True,
        "method.predictor.init_depth_scaling": True,
        "method.predictor.mask_token_std": 0,
        "method.predictor.shared_mask_token": True,
        "optim.clip_norm": None,
    },
    "hjepa_vitl16_video": V_JEPA
    | {"method.levels.0.predictor.mask_token_std": 0, "optim.clip_norm": 10, "optim.clip_after_warmup": True},
    "byol_resnet50": TENSORFLOW | {"method.projector.last_bias": False, "method.predictor.last_bias": False},
    "simclr_resnet50": TENSORFLOW | {"views.mean": [0, 0, 0], "views.std": [1, 1, 1], "method.projector.last_bias": False},
    "swav_resnet50": TORCHVISION | {"views.std": [0.228, 0.224, 0.225], "method.projector.last_bias": True},
    "simsiam_resnet50": TORCHVISION | {"method.predictor.last_bias": True},
    "lejepa_vits16": TORCHVISION,
    "vicreg_resnet50": BICUBIC | {"method.projector.last_bias": False},
    "barlow_twins_resnet50": BICUBIC | {"method.projector.last_bias": False},
}
RELEASED |= {
    "vjepa_vith16": RELEASED["vjepa_vitl16"],
    "vjepa2_vitl16_cooldown": RELEASED["vjepa2_vitl16"],
    "hjepa_vitl16_video_flat": RELEASED["hjepa_vitl16_video"],
}
DIFFERENCES = {
    "vjepa_vitl16": ["separately, at 10 each, from 300 steps after the warm-up on", "no clip ends with the last frame"],
    "vjepa2_vitl16": ["3.84 seconds at 25 frames per second and 3.73 at 30"],
    "byol_resnet50": ["random weights of its own", "brightness is added"],
    "simclr_resnet50": ["batch norm sees the two views separately", "TensorFlow 1"],
    "swav_resnet50": ["LARC on all parameters"],
    "simsiam_resnet50": ["once per epoch", "decays biases and norms"],
    "lejepa_vits16": ["class token", "decays all parameters"],
}
"""The differences from a release that a recipe's header names."""


@pytest.mark.parametrize("recipe", RELEASED)
def test_recipe_has_the_constants_of_its_release(recipe):
    results = load_config(CONFIGS / f"{recipe}.yaml").results()
    assert {key: result_value(results, key) for key in RELEASED[recipe]} == RELEASED[recipe]


@pytest.mark.parametrize("recipe", DIFFERENCES)
def test_recipe_names_its_differences(recipe):
    head = " ".join((CONFIGS / f"{recipe}.yaml").read_text().split("\nname:")[0].replace("\n#", "").split())
    assert not [words for words in DIFFERENCES[recipe] if words not in head]


@pytest.mark.parametrize("recipe", [name for name in RELEASED if name.endswith("resnet50")])
def test_residual_branches_start_at_zero_but_in_swav(recipe):
    """The last batch norm of every block: its scale starts at one in SwAV's release, at zero in all others."""
    encoder = load_config(CONFIGS / f"{recipe}.yaml").method.encoder
    network = timm.create_model(encoder.timm, channels=[4, 4, 8, 8], num_classes=0, **encoder.args)
    scales = {float(block.bn3.weight.detach().mean()) for layer in (network.layer1, network.layer4) for block in layer}
    assert scales == {1.0 if recipe == "swav_resnet50" else 0.0}


def test_published_clip_lasts_as_long_as_the_release_says():
    """The header of vjepa2_vitl16: 16 steps of the frame rate over 4, rounded down."""
    assert [16 * (rate // 4) / rate for rate in (25, 30)] == pytest.approx([3.84, 3.73], abs=0.005)
