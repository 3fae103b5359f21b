"""The preview draws the masks a run would use, and shows the published bias."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jepa_pipeline.commands.preview import coverage, png_path, preview_masks, preview_views, sample
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.parse import load_overrides
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.masks.build import build_mask_samplers

ROOT = Path(__file__).parents[1]


def test_a_png_is_written_and_described(tiny, tmp_path):
    console = Console(record=True, width=200)
    out = preview_masks(tiny(), tmp_path / "masks.png", console)
    assert Image.open(out).size > (500, 500)
    assert "2 multiblock: the first batch has 5 context tokens and 2 target blocks of 4 of 16 tokens" in console.export_text()


def test_coverage_shows_the_published_bias_and_its_absence(tiny):
    grid = (1, 16, 16)
    recipe = "method.encoder={image_size: 32, patch_size: 2, embed_dim: 24, depth: 1, num_heads: 2}"
    ours, published = (tiny(recipe, f"method.masks={{legacy: {legacy}}}", "optim.total_samples=64") for legacy in ("false", "true"))
    use = coverage([masks.context for masks in sample(published, build_mask_samplers(published.method))[0]], grid)[0]
    assert (use[-1] == 0).all() and (use[:, -1] == 0).all() and use[0].mean() > 2 * use[-2].mean()
    use = coverage([masks.context for masks in sample(ours, build_mask_samplers(ours.method))[0]], grid)[0]
    assert (use > 0).all() and np.isclose(use[0].mean(), use[-1].mean(), rtol=0.1)


CLIPS = [
    "method.name=vjepa",
    "method.encoder={image_size: 16, patch_size: 4, frames: 8, tubelet_size: 2, embed_dim: 24, depth: 2, num_heads: 2}",
]
SETS = "method.masks=[{name: blocks, num_blocks: 4, scale: [0.2, 0.3], legacy: true}, {name: causal, context_keep: 0.5}]"


def test_every_set_of_masks_of_clips_is_drawn_and_described_by_time_step(tiny, tmp_path):
    console = Console(record=True, width=200)
    out = preview_masks(tiny(*CLIPS, SETS), tmp_path / "masks.png", console)
    assert Image.open(out).size > (500, 500)
    said = console.export_text().replace("\n", " ")
    assert "4 blocks, legacy: the first batch has" in said and "causal: the first batch has 16 context tokens and 32 target" in said
    assert "target with 0.000 (step 0) to 1.000 (step 2)" in said


def test_masks_that_starve_the_end_of_clips_show_in_the_bars(tiny):
    ours, published = (
        tiny(
            *CLIPS,
            f"method.masks=[{{name: blocks, num_blocks: 4, scale: [0.2, 0.3], context_keep: 0.2, target_keep: 0.4, legacy: {legacy}}}]",
        )
        for legacy in ("false", "true")
    )
    uses = [
        coverage([masks.context for masks in sample(config, build_mask_samplers(config.method))[0]], (4, 4, 4)).mean((1, 2))
        for config in (ours, published)
    ]
    assert uses[0].min() > 0.9 * uses[0].max() and uses[1][-1] < 0.5 * uses[1][0]


def test_clips_are_drawn_frame_by_frame(tiny, tmp_path):
    """On images, which are clips that stand still."""
    console = Console(record=True, width=200)
    out = preview_views(tiny(*CLIPS, SETS), tmp_path / "views.png", console)
    assert Image.open(out).size > (500, 500)
    assert "each in 1 view(s), 8 frames of 16x16 pixels" in console.export_text()


def test_views_are_drawn_beside_their_images(tiny, tmp_path):
    console = Console(record=True, width=200)
    crops = "views.crops=[{count: 2, flip: 0.5, solarize: 0.5}, {image_size: 8, blur: {}}]"
    method = "method={name: vicreg, encoder: {timm: resnet18, image_size: 16}, projector: {hidden: [], out: 4}}"
    fresh = load_overrides(
        RunConfig, [f"data.train={tiny().data.train[0].path}", "name=x", "optim.total_samples=4096", method, crops]
    )
    out = preview_views(fresh, tmp_path / "views.png", console)
    assert Image.open(out).size > (500, 500)
    assert "each in 3 view(s), 2 of 16x16, 1 of 8x8 pixels" in console.export_text()


def test_masks_of_a_method_without_any_are_refused(tiny):
    method = "method={name: vicreg, encoder: {timm: resnet18, image_size: 16}, projector: {hidden: [], out: 4}}"
    with pytest.raises(UserError, match="vicreg has no masks"):
        preview_masks(load_config(ROOT / "configs/debug/vicreg.yaml", [method]))


@pytest.mark.parametrize("place", ["file/x.png", "file/x/y.png"])
def test_a_picture_in_no_folder_is_refused(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"png cannot be written, because .*file is not a folder: name a place in a folder that you may write to"
    ):
        png_path(tmp_path / place, "x.png")
