"""Arguments that several commands share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.level import Level

Value = TypeVar("Value")

RUNS = Path("runs")
"""The folder of run folders by default, as of the key `output`."""


def find_run(run: Path) -> Path:
    """Return a run folder that is given by its path or, in RUNS, by its name."""
    named = RUNS / run
    return named if not run.exists() and len(run.parts) == 1 and named.is_dir() else run


def find_runs(runs: list[Path]) -> list[Path]:
    """Return run folders; see find_run."""
    return [find_run(run) for run in runs]


Recipe = Annotated[Path, typer.Argument(help="A recipe by name (`jepa config list`), a YAML recipe, or a run folder.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Dotted assignments that override the recipe, such as optim.lr=3e-4.")]
Run = Annotated[
    Path, typer.Argument(callback=find_run, help="A run folder, such as runs/NAME, or its NAME alone, or an encoder folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, alone on stdout; all else goes to stderr.")]
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


def choose(positional: Value | None, option: Value | None, name: str) -> Value | None:
    """Return a value that may be given with or without its option.

    Raises:
        UserError: it is given twice, differently.
    """
    if positional is not None and option is not None and positional != option:
        raise UserError(f"{positional} and {name} {option} are two values of one thing: give one of them")
    return option if positional is None else positional


def split_data(words: Sequence[str], data: str | None) -> tuple[str | None, list[str]]:
    """Return the data set and the settings KEY=VALUE among words of which the first may be the data set.

    Raises:
        UserError: there is another word, or the data set is given twice.
    """
    first = words[0] if words and ("=" not in words[0] or "://" in words[0].partition("=")[0]) else None
    settings = list(words[1:] if first is not None else words)
    if stray := [word for word in settings if "=" not in word]:
        raise UserError(f"{stray[0]} is no setting KEY=VALUE: give one run, then one data set, then settings")
    return choose(first, data, "--data"), settings


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
