"""Arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.level import Level

Recipe = Annotated[Path, typer.Argument(help="A recipe by name (`jepa config list`), a YAML recipe, or a run folder.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Dotted assignments that override the recipe, such as optim.lr=3e-4.")]
Run = Annotated[Path, typer.Argument(help="A run folder, such as runs/NAME, or an encoder folder.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes; default: all cores.")]
Site = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Site file, or a site of this package by name; default: $JEPA_SITE, else ~/.config/jepa_pipeline/site.yaml.",
    ),
]
SiteOverrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the site file, such as time=2:00:00; repeatable."),
]
Time = Annotated[bool, typer.Option("--time", help="Also train on a few samples, to estimate how long the run would take here.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the batch scripts and submit nothing.")]


def parse_level(text: str) -> Level:
    """Return the level of a stack that an option gives.

    Raises:
        UserError: it is neither a level's number nor "all".
    """
    if text == "all":
        return "all"
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--level {text}: levels are counted from 1: give a number such as 1, or all")
    return int(text)
