"""Every recipe in configs/ loads as it stands, and takes two steps with its networks shrunk."""

from pathlib import Path

import pytest
from rich.console import Console

from jepa_pipeline.config.load import load_config
from jepa_pipeline.pretrain import pretrain
from jepa_pipeline.training.tracker import read_rows

RECIPES = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_takes_two_steps(recipe, shards, tmp_path):
    config = load_config(recipe)
    small = config.method.encoder
    size = small.image_size // small.patch_size * 2  # the recipe's own grid of patches, of two pixels each
    config = load_config(
        recipe,
        [
            f"output={tmp_path}",
            f"data={{train: {shards / 'train'}, workers: 0}}",
            f"method.encoder.image_size={size}",
            "method.encoder.patch_size=2",
            *[
                f"method.encoder.{key}={value}"
                for key, value in {"arch": "null", "embed_dim": 24, "depth": 1, "num_heads": 2}.items()
            ],
            "method.predictor={embed_dim: 16, depth: 1, num_heads: 2}",
            f"optim.accumulate_steps={1 if config.optim.accumulate_steps == 1 else 2}",
            "optim.batch_size_global=4",
            "optim.total_samples=8",
            "optim.warmup_samples=4",
            "trainer.accelerator=cpu",
            "trainer.compile=false",
            "log={every_steps: 1}",
        ],
    )
    folder = pretrain(config, Console(quiet=True))
    assert [row["step"] for row in read_rows(folder / "metrics.jsonl") if "loss" in row] == [1, 2]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_opens_with_its_command_and_its_number(recipe):
    head = recipe.read_text().split("\nname:")[0]
    assert f"jepa pretrain configs/{recipe.name}" in head
    assert "measured" in head.lower() or "not yet run" in head.lower()
