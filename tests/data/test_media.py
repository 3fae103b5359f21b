"""A run is refused data from which there is nothing to learn."""

from pathlib import Path

import pytest

from jepa_pipeline.checks.data import check_data
from jepa_pipeline.checks.submission import read_data
from jepa_pipeline.commands.pretrain import name_data
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.data.media import check_moves

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(("recipe", "name"), [("vjepa_quickstart", "vjepa"), ("hjepa_quickstart", "hjepa")])
def test_pictures_have_no_future(recipe, name):
    config = load_config(CONFIGS / f"{recipe}.yaml")
    with pytest.raises(UserError) as refused:
        check_moves(["images", "images"], config)
    assert str(refused.value) == (
        f"data.train holds images, which stand still, but {name} is asked for the future alone: name videos, or ask for what blocks "
        "masks hide"
    )
    check_moves(["images", "videos"], config)


@pytest.mark.parametrize("recipe", ["debug/vjepa", "debug/ijepa", "debug/byol", "hjepa_vitb16"])
def test_what_blocks_hide_can_be_told_of_pictures(recipe):
    check_moves(["images"], load_config(CONFIGS / f"{recipe}.yaml"))


def test_whoever_looks_at_the_data_first_says_it(shards):
    config = load_config(CONFIGS / "hjepa_quickstart.yaml", [f"data.train={shards / 'train'}"])
    sentence = "data.train holds images, which stand still, but hjepa is asked for the future alone"
    with pytest.raises(UserError, match=sentence):
        name_data(config)
    assert any(found.level == "fail" and sentence in found.text for found in check_data(config, quick=True))
    (mistake,) = read_data(config)
    assert sentence in mistake
