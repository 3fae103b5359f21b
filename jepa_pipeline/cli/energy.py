"""`jepa energy`."""

from pathlib import Path
from typing import Annotated

import typer

from jepa_pipeline.cli.arguments import Run


def energy(
    run: Run,
    data: Annotated[
        str | None,
        typer.Option(
            help="Shards, which need no labels: a folder or URL, or one with test/ in it; the test/ around the shards the run was "
            "trained on unless said, or these where there is none."
        ),
    ] = None,
    past: Annotated[float, typer.Option(help="Share of a clip that is seen; the rest is its future.")] = 0.5,
    samples: Annotated[int, typer.Option(min=2, help="How many are looked at, at most.")] = 512,
    pictures: Annotated[int, typer.Option(min=0, help="How many of them are drawn with their errors.")] = 8,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; RUN/energy unless said.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Key of the samples, of masks and of shuffled futures.")] = 0,
) -> None:
    """Look at a JEPA as an energy: how well it predicts, where, how far ahead, and whether the truth has lower energy than else.

    Of videos the future is compared with another video's, and with its own shuffled, reversed and frozen; of images what is hidden
    with another image's pixels and with its own in other places.
    """
    from jepa_pipeline.commands.energy import energy

    energy(run, data, past=past, samples=samples, pictures=pictures, out=out, seed=seed)
