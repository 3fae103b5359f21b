"""`jepa config list`: the recipes that come with this package."""

from typing import Any

from jepa_pipeline.config.parse import build, read_yaml
from jepa_pipeline.config.recipes import PREFIXES, names_of, shipped_files
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.results.tables import EMPTY, Cell, Table, print_table

HEADER = ("name", "method", "encoder", "parameters", "data", "hardware", "time", "measured")
MINUTES_UP_TO = 2.0
"""Hours below which a time is shown in minutes."""


def list_recipes() -> list[dict[str, Any]]:
    """Print the recipes with what they say about themselves; return them."""
    rows = [describe(name) for name in names_of("recipe")]
    print_table(Table(HEADER, [[Cell(text) for text in row_texts(row)] for row in rows]), left=True)
    for kind in ("suite", "site"):
        print(f"{kind}s: {', '.join(name.removeprefix(PREFIXES[kind]) for name in names_of(kind))}")
    print("A time with ~ is calculated. `jepa pretrain NAME` trains a recipe, `jepa config copy NAME` writes a copy to edit.")
    return rows


def describe(name: str) -> dict[str, Any]:
    """Return the name, method and encoder of a recipe, and what it says about itself."""
    config = build(RunConfig, read_yaml(shipped_files()[name], RunConfig))
    assert config.about is not None, f"{name} has no section about"
    return {"name": name, "method": config.method.name, "encoder": config.method.encoder.describe(), **config.about.model_dump()}


def row_texts(row: dict[str, Any]) -> list[str]:
    """Return the cells of a recipe."""
    hours, parameters = row["hours"], row["parameters"]
    time = EMPTY
    if hours is not None:
        time = ("" if row["measured"] else "~") + (f"{60 * hours:.0f} min" if hours < MINUTES_UP_TO else f"{hours:g} h")
    size = EMPTY if parameters is None else f"{parameters:g} M"
    begin = [row["name"], row["method"], row["encoder"], size, row["data"], row["hardware"], time]
    return [*begin, row["measured"] or "no"]
