"""`jepa config`: recipes and their keys."""

from pathlib import Path
from typing import Annotated

import typer

from jepa_pipeline.cli.arguments import Json, Overrides, Recipe, Time
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.keys import KeyRow
from jepa_pipeline.redaction import redact, redact_values

config = typer.Typer(help="List, copy, check and explain recipes and their keys.", no_args_is_help=True)


@config.command("list")
def config_list(as_json: Json = False) -> None:
    """List the recipes of this package: method, encoder, data, hardware, time, and whether they were measured."""
    from jepa_pipeline.commands.list_recipes import list_recipes
    from jepa_pipeline.console import json_alone

    with json_alone(as_json) as print_json:
        print_json({"recipes": list_recipes()})


@config.command("copy")
def config_copy(
    name: Annotated[str, typer.Argument(help="Name of a recipe, such as ijepa_vits16, of a suite or of a site: sites/generic.")],
    path: Annotated[Path | None, typer.Argument(help="File or folder to write to; default: NAME.yaml in this folder.")] = None,
) -> None:
    """Copy a recipe, suite or site of this package to edit it, with a schema for editors beside it. Nothing is overwritten."""
    from jepa_pipeline.commands.copy_recipe import copy_recipe

    copy_recipe(name, path)


@config.command("check")
def config_check(recipe: Recipe, overrides: Overrides = None, time: Time = False) -> None:
    """Report all mistakes in a recipe, with file and line, and what would keep it from running on this machine."""
    from jepa_pipeline.config.load import load_config

    run = load_config(recipe, overrides or [])

    from jepa_pipeline.commands.check_config import check_config

    check_config(run, timed=time)
    steps = f"{run.optim.total_steps} steps of {run.optim.batch_size_global} samples"
    print(f"{recipe} is valid: {steps}, {run.optim.describe_lr()}, config hash {run.hash()}")
    if run.method.encoder.timm:
        print(f"not checked: timm's {run.method.encoder.timm} and its args, which `jepa pretrain` checks first")


@config.command("show")
def config_show(
    recipe: Annotated[
        Path | None,
        typer.Argument(help="A recipe, by name or as a YAML file, or a run folder; default: all keys, as `jepa config keys`."),
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Print a recipe with all its keys, after `extends` and overrides, and what they mean."""
    if recipe is None:
        return config_keys(None, as_json=as_json)
    from jepa_pipeline.config.load import load_config
    from jepa_pipeline.config.render import annotated_yaml
    from jepa_pipeline.console import json_alone

    run = load_config(recipe, overrides or [])
    with json_alone(as_json) as print_json:
        print_json(redact_values(run.model_dump(mode="json")))
        if not as_json:
            print(redact(annotated_yaml(run)))


@config.command("keys")
def config_keys(
    section: Annotated[
        str | None,
        typer.Argument(help="recipe, probe, suite or site, or a section of a recipe, such as optim or method.masks; default: all."),
    ] = None,
    as_json: Json = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of a recipe, or of probe, suite or site, for editors.")
    ] = False,
) -> None:
    """Print keys with their types, units, defaults and meanings: of recipes, of `jepa probe`, of suites and of site files."""
    from jepa_pipeline.config.keys import TREES, all_keys
    from jepa_pipeline.config.schema import file_schema
    from jepa_pipeline.console import json_alone

    if schema:
        tree = section or "recipe"
        if tree not in TREES:
            raise UserError(f"--schema is of a whole file: give one of {', '.join(TREES)}, and not {section}")
        with json_alone(True) as print_json:
            print_json(file_schema(tree))
        return
    rows = all_keys(section)
    with json_alone(as_json) as print_json:
        print_json({"keys": [row._asdict() for row in rows]})
    if not as_json:
        print_keys(rows)


def print_keys(rows: list[KeyRow]) -> None:
    """Print keys below the name of the file that they are of."""
    tree = None
    for row in rows:
        if row.tree != tree:
            tree = row.tree
            print(f"{'' if row is rows[0] else chr(10)}# {tree}")
        print(row)
