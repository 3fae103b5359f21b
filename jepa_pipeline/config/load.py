"""Recipes and the configurations of run folders, as typed values."""

from collections.abc import Sequence
from pathlib import Path

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.layers import Layer
from jepa_pipeline.config.parse import build, read_overrides, read_yaml
from jepa_pipeline.config.recipes import find_file
from jepa_pipeline.config.removed import upgrade_saved
from jepa_pipeline.config.run import RunConfig


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe.

    Args:
        path: a YAML 1.2 file. The files that its `extends: [other.yaml]` names, relative to it, or recipes of this package by
            name, are merged below it. Or the name of a recipe of this package, such as ijepa_vits16. Or a run folder: its
            config.yaml, with the folder's present path and name.
        overrides: dotted assignments such as "optim.lr=3e-4", merged above it.

    Raises:
        ConfigError: with every mistake in it.
    """
    file = find_file(path, "recipe")
    layer = read_run_folder(file) if file.is_dir() else read_yaml(file, RunConfig)
    layer.update(read_overrides(overrides, RunConfig), RunConfig)
    return build(RunConfig, layer).model_copy(update={"about": None})  # a recipe's words about itself are no part of a run


def read_run_folder(folder: Path) -> Layer:
    """Read the configuration of a run folder, which may have been moved, or written by an earlier version."""
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is a folder without a config.yaml: give a recipe or a run folder, such as runs/NAME")
    layer, path = read_yaml(folder / "config.yaml", RunConfig), folder.resolve()
    layer.values = upgrade_saved(layer.values)
    layer.update(Layer({"output": str(path.parent), "name": path.name}, {}, str(folder)), RunConfig)
    return layer
