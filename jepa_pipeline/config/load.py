"""Recipes and the configurations of run folders, as typed values."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.layers import Layer
from jepa_pipeline.config.parse import build, read_overrides, read_yaml
from jepa_pipeline.config.recipes import find_file
from jepa_pipeline.config.removed import upgrade_saved
from jepa_pipeline.config.run import RunConfig


def load_config(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe.

    Args:
        recipe: a YAML 1.2 file. The files that its `extends: [other.yaml]` names, relative to it, or recipes of this package by
            name, are merged below it. Or the name of a recipe of this package, such as ijepa_vits16. Or a run folder: its
            config.yaml, with the folder's present path and name. Or a dictionary of sections.
        overrides: dotted assignments such as "optim.lr=3e-4", merged above it.

    Raises:
        ConfigError: with every mistake in it.
    """
    config = build(RunConfig, read_recipe(recipe, overrides))
    return config.model_copy(update={"about": None})  # a recipe's words about itself are no part of a run


def read_recipe(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Layer:
    """Read the values of a recipe, which need not be complete; the arguments are those of load_config."""
    if isinstance(recipe, Mapping):
        layer = Layer({}, {}, "dictionary")
        layer.update(Layer(deepcopy(dict(recipe)), {}, "dictionary"), RunConfig)
    else:
        file = find_file(recipe, "recipe")
        layer = read_run_folder(file) if file.is_dir() else read_yaml(file, RunConfig)
    layer.update(read_overrides(overrides, RunConfig), RunConfig)
    return layer


def read_run_folder(folder: Path) -> Layer:
    """Read the configuration of a run folder, which may have been moved, or written by an earlier version."""
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is a folder without a config.yaml: give a recipe or a run folder, such as runs/NAME")
    layer, path = read_yaml(folder / "config.yaml", RunConfig), folder.resolve()
    layer.values = upgrade_saved(layer.values)
    layer.update(Layer({"output": str(path.parent), "name": path.name}, {}, str(folder)), RunConfig)
    return layer
