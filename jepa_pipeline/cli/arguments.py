"""Arguments that several verbs take."""

from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[Path, typer.Argument(help="A YAML recipe, such as those in configs/, or a run folder.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Dotted assignments laid over the recipe, such as optim.lr=3e-4.")]
Run = Annotated[Path, typer.Argument(help="A run folder, such as runs/NAME.")]
