"""A run is refused data from which there is nothing to learn."""

import pytest

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.data.media import check_moves


@pytest.mark.parametrize(("recipe", "name"), [("vjepa_quickstart", "vjepa"), ("hjepa_quickstart", "hjepa")])
def test_pictures_have_no_future(recipe, name):
    config = load_config(f"configs/{recipe}.yaml")
    with pytest.raises(UserError) as refused:
        check_moves(["images", "images"], config)
    assert str(refused.value) == (
        f"data.train holds images, which stand still, but {name} is asked for the future alone: name videos, or ask for what blocks "
        "masks hide"
    )
    check_moves(["images", "videos"], config)


@pytest.mark.parametrize("recipe", ["debug/vjepa", "debug/ijepa", "debug/byol", "hjepa_vitb16"])
def test_what_blocks_hide_can_be_told_of_pictures(recipe):
    check_moves(["images"], load_config(f"configs/{recipe}.yaml"))
