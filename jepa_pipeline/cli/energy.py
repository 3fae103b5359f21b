"""`jepa energy`."""

from pathlib import Path
from typing import Annotated

import typer

from jepa_pipeline.cli.arguments import Json, choose, find_run


def energy(
    run: Annotated[
        Path,
        typer.Argument(
            callback=find_run,
            help="A run folder, such as runs/NAME, or its NAME alone, or an encoder that was imported with --predictor.",
        ),
    ],
    shards: Annotated[str | None, typer.Argument(metavar="[DATA]", help="The same as --data.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder or URL of shards, which need no labels, or of one with test/ in it; default: the test/ next to the "
            "training shards, else the training shards."
        ),
    ] = None,
    past: Annotated[float, typer.Option(help="Share of a clip that is context; the rest is its future.")] = 0.5,
    samples: Annotated[int, typer.Option(min=2, help="Maximum number of samples.")] = 512,
    pictures: Annotated[int, typer.Option(min=0, help="Number of samples drawn with their errors.")] = 8,
    out: Annotated[Path | None, typer.Option(help="Output folder; default: RUN/energy.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the samples, masks and shuffled futures.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure a JEPA's energy: its prediction error by position and horizon, and whether true samples have the lowest.

    The future of a video is compared with another video's, and with its own shuffled, reversed and frozen; the masked part of an
    image with another image's, and with its own at other positions.
    """
    from jepa_pipeline.checks.given_paths import check_energy

    data = choose(shards, data, "--data")
    check_energy(run, data, past)

    from jepa_pipeline.commands.energy import energy
    from jepa_pipeline.console import json_alone

    with json_alone(as_json) as print_json:
        report = energy(run, data, past=past, samples=samples, pictures=pictures, out=out, seed=seed)
        print_json(report.model_dump(mode="json"))
