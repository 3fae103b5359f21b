"""`jepa doctor`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from jepa_pipeline.cli.arguments import Overrides


def doctor(
    recipe: Annotated[
        Path | None, typer.Argument(help="A YAML recipe or a run folder; machine and Slurm alone where there is none.")
    ] = None,
    overrides: Overrides = None,
    site: Annotated[Path | None, typer.Option(help="Site file, held against the cluster; your own where there is one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Decode fewer samples and write fewer bytes.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of runs whose disk is looked at, in place of the recipe's output.")
    ] = None,
) -> None:
    """Look for what would stop a run: machine, disk, data, Slurm; under srun or torchrun also whether the processes agree.

    Exit code 1 if anything would.
    """
    import json as text

    from jepa_pipeline.config.load import load_config
    from jepa_pipeline.config.site import load_site, site_file

    place = [f"output={text.dumps(str(out))}"] if out else []
    run = load_config(recipe, [*(overrides or []), *place]) if recipe else None
    cluster = load_site(site) if site or os.environ.get("JEPA_SITE") or site_file().is_file() else None

    from jepa_pipeline.commands.doctor import doctor, failed

    if failed(doctor(run, cluster, folder=out, quick=quick, as_json=json)):
        raise typer.Exit(1)
