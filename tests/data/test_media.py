"""A run refuses data from which there is nothing to learn."""

from pathlib import Path

import pytest

from jepa_pipeline.checks.data import check_data
from jepa_pipeline.checks.submission import find_data_errors
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.data.media import check_motion
from jepa_pipeline.training.setup import hash_data

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(("recipe", "name"), [("vjepa_quickstart", "vjepa"), ("hjepa_quickstart", "hjepa")])
def test_images_have_no_future(recipe, name):
    config = load_config(CONFIGS / f"{recipe}.yaml")
    with pytest.raises(UserError) as refused:
        check_motion(["images", "images"], config.method)
    assert str(refused.value) == (
        f"data.train holds only still images, but {name} predicts only the future: use videos, or mask blocks instead"
    )
    check_motion(["images", "videos"], config.method)


@pytest.mark.parametrize("recipe", ["debug/vjepa", "debug/ijepa", "debug/byol", "hjepa_vitb16"])
def test_masked_blocks_can_be_predicted_from_images(recipe):
    check_motion(["images"], load_config(CONFIGS / f"{recipe}.yaml").method)


def test_every_check_of_the_data_refuses_it(shards):
    config = load_config(CONFIGS / "hjepa_quickstart.yaml", [f"data.train={shards / 'train'}"])
    sentence = "data.train holds only still images, but hjepa predicts only the future"
    with pytest.raises(UserError, match=sentence):
        hash_data(config.data, config.method)
    assert any(found.level == "fail" and sentence in found.text for found in check_data(config, quick=True))
    (mistake,) = find_data_errors(config)
    assert sentence in mistake
