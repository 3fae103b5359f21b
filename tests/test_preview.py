"""The preview draws the masks a run would use, and shows the published bias."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import build, load_config, read_overrides
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.masks.build import build_masks
from jepa_pipeline.preview import coverage, preview_masks, preview_views, sample

ROOT = Path(__file__).parents[1]


def test_a_png_is_written_and_described(tiny, tmp_path):
    console = Console(record=True, width=200)
    out = preview_masks(tiny(), tmp_path / "masks.png", console)
    assert Image.open(out).size > (500, 500)
    assert "5 context tokens and 2 target blocks of 4 of 16 tokens" in console.export_text()


def test_coverage_shows_the_published_bias_and_its_absence(tiny):
    grid = (16, 16)
    recipe = "method.encoder={image_size: 32, patch_size: 2, embed_dim: 24, depth: 1, num_heads: 2}"
    ours, published = (tiny(recipe, f"method.masks={{legacy: {legacy}}}", "optim.total_samples=64") for legacy in ("false", "true"))
    use = coverage([masks.context for masks in sample(published, build_masks(published.method.masks, grid))], grid)
    assert (use[-1] == 0).all() and (use[:, -1] == 0).all() and use[0].mean() > 2 * use[-2].mean()
    use = coverage([masks.context for masks in sample(ours, build_masks(ours.method.masks, grid))], grid)
    assert (use > 0).all() and np.isclose(use[0].mean(), use[-1].mean(), rtol=0.1)


def test_views_are_drawn_beside_their_images(tiny, tmp_path):
    console = Console(record=True, width=200)
    crops = "views.crops=[{count: 2, flip: 0.5, solarize: 0.5}, {image_size: 8, blur: {}}]"
    method = "method={name: vicreg, encoder: {timm: resnet18, image_size: 16}, projector: {hidden: [], out: 4}}"
    fresh = build(
        RunConfig, read_overrides([f"data.train={tiny().data.train[0].path}", "name=x", "optim.total_samples=4096", method, crops])
    )
    out = preview_views(fresh, tmp_path / "views.png", console)
    assert Image.open(out).size > (500, 500)
    assert "each in 3 view(s), 2 of 16x16, 1 of 8x8 pixels" in console.export_text()


def test_masks_of_a_method_without_any_are_refused(tiny):
    method = "method={name: vicreg, encoder: {timm: resnet18, image_size: 16}, projector: {hidden: [], out: 4}}"
    with pytest.raises(UserError, match="vicreg has no masks"):
        preview_masks(load_config(ROOT / "configs/debug/vicreg.yaml", [method]))
