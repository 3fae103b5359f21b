"""The preview draws the masks a run would use, and shows the published bias."""

import numpy as np
from PIL import Image
from rich.console import Console

from jepa_pipeline.preview import coverage, preview_masks, sample


def test_a_png_is_written_and_described(tiny, tmp_path):
    console = Console(record=True, width=200)
    out = preview_masks(tiny(), tmp_path / "masks.png", console)
    assert Image.open(out).size > (500, 500)
    assert "5 context tokens and 2 target blocks of 4 of 16 tokens" in console.export_text()


def test_coverage_shows_the_published_bias_and_its_absence(tiny):
    grid = (16, 16)
    recipe = "method.encoder={image_size: 32, patch_size: 2, embed_dim: 24, depth: 1, num_heads: 2}"
    ours, published = (tiny(recipe, f"method.masks={{legacy: {legacy}}}", "optim.total_samples=64") for legacy in ("false", "true"))
    use = coverage([masks.context for masks in sample(published)], grid)
    assert (use[-1] == 0).all() and (use[:, -1] == 0).all() and use[0].mean() > 2 * use[-2].mean()
    use = coverage([masks.context for masks in sample(ours)], grid)
    assert (use > 0).all() and np.isclose(use[0].mean(), use[-1].mean(), rtol=0.1)
