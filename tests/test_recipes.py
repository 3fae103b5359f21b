"""Every recipe in configs/ loads unchanged, and takes two steps with smaller networks."""

import re
from pathlib import Path

import pytest
from rich.console import Console

from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.files import read_json_lines

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name not in ("parts", "suites"))
NAMES = [str(path.relative_to(CONFIGS)) for path in RECIPES]


def shrink(config: RunConfig) -> dict:
    """Return the values of a recipe with smaller networks, images and heads, and nothing else changed."""
    values = config.model_dump(mode="json")
    method = values["method"]
    if method["name"] == "hjepa":
        for level in method["levels"]:
            shrink_level(level)
        return values
    encoder = method["encoder"]
    if "timm" in encoder:
        small = {"depth": 1, "embed_dim": 24, "num_heads": 2} if "vit" in encoder["timm"] else {"channels": [4, 4, 8, 8]}
        encoder |= {
            "image_size": 32,
            "args": encoder["args"] | small | ({"layers": [1, 1, 1, 1]} if "50" in encoder["timm"] else {}),
        }
    elif encoder["frames"] > 1:
        side = min(encoder["image_size"] // encoder["patch_size"], 8) * 2
        frames = min(encoder["frames"] // encoder["tubelet_size"], 4) * encoder["tubelet_size"]
        encoder |= {
            "image_size": side,
            "patch_size": 2,
            "frames": frames,
            "arch": None,
            "embed_dim": 24,
            "depth": 1,
            "num_heads": 2,
        }
        method["predictor"] |= {"embed_dim": 16, "depth": 1, "num_heads": 2}
        for masks in method["masks"]:
            masks |= {key: masks[key] / 2 for key in ("context_keep", "target_keep") if masks["name"] == "blocks"}
    else:
        side = encoder["image_size"] // encoder["patch_size"] * 2  # the recipe's own grid of patches, of two pixels each
        encoder |= {"image_size": side, "patch_size": 2, "arch": None, "embed_dim": 24, "depth": 1, "num_heads": 2}
        method["predictor"] |= {"embed_dim": 16, "depth": 1, "num_heads": 2}
    for head in ("projector", "predictor"):
        if "hidden" in method.get(head, {}):
            method[head] |= {"hidden": [12 for _ in method[head]["hidden"]], "out": 16}
    method |= {key: small for key, small in {"prototypes": 8, "slices": 8}.items() if key in method}
    for crop in values["views"]["crops"]:
        # not 16: a ResNet then ends in one pixel, on which torch 2.13 computes wrong bf16 gradients on a CPU (findings/)
        crop["image_size"] = crop["image_size"] and (16 if "vit" in encoder.get("timm", "") else 24)
    return values


def shrink_level(level: dict) -> None:
    """Shrink a level of a stack in place, on the recipe's own grid of patches, of two pixels each."""
    encoder = level["encoder"]
    encoder |= {"embed_dim": 24, "depth": 1, "num_heads": 2}
    level["predictor"] |= {"embed_dim": 16, "depth": 1, "num_heads": 2}
    if "stride" not in encoder:
        side, steps = encoder["image_size"] // encoder["patch_size"], encoder["frames"] // encoder["tubelet_size"]
        encoder |= {"arch": None, "image_size": 2 * side, "patch_size": 2, "frames": steps, "tubelet_size": 1}


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_recipe_takes_two_steps(recipe, shards, videos, tmp_path):
    config = load_config(recipe)
    data = videos if config.method.encoder.modality.has_time else shards
    values = shrink(config)
    parts = 1 if config.optim.accumulate_steps == 1 else 2
    values |= {"init_from": None, "output": tmp_path, "data": {"train": data / "train", "workers": 0}, "log": {"every_steps": 1}}
    values["optim"] |= {
        "accumulate_steps": parts,
        "batch_size_global": 4 * parts,
        "total_samples": 8 * parts,
        "warmup_samples": 4,
        "constant_samples": 0,
    }
    values["trainer"] |= {"accelerator": "cpu", "compile": False, "threads": None}
    folder = pretrain(RunConfig.model_validate(values), Console(quiet=True))
    assert [row["step"] for row in read_json_lines(folder / "metrics.jsonl") if "loss" in row] == [1, 2]


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_recipe_opens_with_its_command_and_result(recipe):
    head = recipe.read_text().split("\nname:")[0]
    assert f"jepa pretrain configs/{recipe.relative_to(CONFIGS)}" in head
    result = {"debug": "Measured: nothing", "configs": r"Measured at commit [0-9a-f]{7}|not yet run"}[recipe.parent.name]
    assert re.search(result, head) and "@" not in head
    if recipe.stem.endswith("fashion_mnist"):
        assert "Measured at commit" in head


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_recipe_is_named_after_its_file(recipe):
    folder = recipe.parent.name
    assert load_config(recipe).name == (recipe.stem if folder == "configs" else f"{folder}_{recipe.stem}")


def test_every_method_has_a_debug_recipe_and_one_that_was_run():
    debugged = {load_config(path).method.name for path in (CONFIGS / "debug").glob("*.yaml")}
    heads = {path: path.read_text().split("\nname:")[0] for path in CONFIGS.glob("*.yaml")}
    ran = {load_config(path).method.name for path, head in heads.items() if "Measured at commit" in head}
    named = {
        section.model_fields["name"].annotation.__args__[0] for section in RunConfig.model_fields["method"].annotation.__args__
    } - {"custom"}  # which is the user's
    assert debugged == named
    assert named - ran == {"vjepa2"}, "which is vjepa with other positions and momentum, and was not run at a size worth a number"
