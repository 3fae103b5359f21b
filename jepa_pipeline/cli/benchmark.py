"""`jepa benchmark` and `jepa table`: many runs side by side."""

from pathlib import Path
from typing import Annotated

import typer

from jepa_pipeline.cli.arguments import DryRun, Json, Site, SiteOverrides, find_runs
from jepa_pipeline.config.errors import UserError


def benchmark(
    suite: Annotated[
        Path, typer.Argument(help="A suite: a YAML file of data sets and settings, or one of this package by name, such as demo.")
    ],
    runs: Annotated[
        list[Path],
        typer.Argument(
            callback=find_runs,
            metavar="RUN...",
            help="Run folders or their names, snapshots (runs/NAME/snapshots/step-00005000) or encoder folders.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the table, which is named after the suite.")] = Path("benchmarks"),
    collect: Annotated[bool, typer.Option("--collect", help="Only collect existing results, and probe nothing.")] = False,
    submit: Annotated[
        bool, typer.Option("--submit", help="Run as a Slurm array of one job per run and data set, and a job that collects.")
    ] = False,
    site: Site = None,
    settings: SiteOverrides = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Probe the encoders of runs on the data sets of a suite, and write one table as Markdown, CSV and JSON.

    Existing results for the same encoder, data and settings are reused. If a probe fails, the others still run; the failures are
    listed at the end, and the exit code is 1. --site, --set and --dry-run require --submit.
    """
    from jepa_pipeline.config.suite import load_suite

    config = load_suite(suite)
    if not submit and (site or settings or dry_run):
        raise UserError("--site, --set and --dry-run require --submit: add it, or remove them")

    from jepa_pipeline.checks.given_paths import check_folders

    check_folders(runs)

    from jepa_pipeline.commands.benchmark import benchmark, submit_benchmark
    from jepa_pipeline.console import json_alone

    if submit:
        from jepa_pipeline.config.site import load_site

        submit_benchmark(config, suite, runs, out, load_site(site, settings or []), dry_run=dry_run)
        return
    with json_alone(as_json) as print_json:
        results = benchmark(config, runs, out, collect=collect)
        print_json(results)
    if results["missing"]:
        raise typer.Exit(1)


def table(
    runs: Annotated[
        list[Path],
        typer.Argument(
            callback=find_runs, metavar="RUN...", help="Run folders, such as runs/*, or their names, and encoder folders."
        ),
    ],
    out: Annotated[Path | None, typer.Option(metavar="OUT", help="Also write the table to OUT.md, OUT.csv and OUT.json.")] = None,
    over_seeds: Annotated[
        bool, typer.Option("--over-seeds", help="One row for the runs that differ in the seed alone: means with their intervals.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare runs: the configuration keys in which they differ, their progress, newest metrics and probe results.

    Runs that failed, or were submitted but have not started, are included. Other folders are skipped.
    """
    from jepa_pipeline.commands.table import table
    from jepa_pipeline.console import json_alone

    with json_alone(as_json) as print_json:
        print_json({"runs": table(runs, out, over_seeds)})
