"""`jepa doctor`."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from jepa_pipeline.cli.arguments import Json, Overrides, Time


def doctor(
    recipe: Annotated[
        Path | None, typer.Argument(help="A YAML recipe or a run folder; default: check only the machine and Slurm.")
    ] = None,
    overrides: Overrides = None,
    site: Annotated[Path | None, typer.Option(help="Site file to compare with the cluster; default: your own, if any.")] = None,
    as_json: Json = False,
    quick: Annotated[bool, typer.Option("--quick", help="Decode fewer samples and write fewer bytes.")] = False,
    time: Time = False,
    out: Annotated[Path | None, typer.Option(help="Folder whose disk is checked; default: the recipe's output.")] = None,
) -> None:
    """Check for everything that would stop a run: machine, disk, data and Slurm.

    Under srun or torchrun, also check that the processes agree. Exit code 1 if a check fails.
    """
    from jepa_pipeline.config.load import load_config
    from jepa_pipeline.config.site import load_site, site_file

    output = [f"output={json.dumps(str(out))}"] if out else []  # JSON, so that YAML reads any path as a string
    run = load_config(recipe, [*(overrides or []), *output]) if recipe else None
    cluster = load_site(site) if site or os.environ.get("JEPA_SITE") or site_file().is_file() else None

    from jepa_pipeline.commands.doctor import doctor, failed

    if failed(doctor(run, cluster, folder=out, quick=quick, timed=time, as_json=as_json)):
        raise typer.Exit(1)
