"""`jepa benchmark` and `jepa table`: many runs side by side."""

from pathlib import Path
from typing import Annotated

import typer

from jepa_pipeline.config.errors import UserError

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, such as runs/*.")]


def benchmark(
    suite: Annotated[Path, typer.Argument(help="A YAML file with data sets and settings, such as configs/suites/demo.yaml.")],
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, or snapshots, such as runs/NAME/snapshots/step-00005000.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the table, which has the suite's name.")] = Path("benchmarks"),
    collect: Annotated[bool, typer.Option("--collect", help="Probe nothing, only gather what was probed before.")] = False,
    submit: Annotated[
        bool, typer.Option("--submit", help="As an array of Slurm jobs, one a run and data set, and one that gathers them.")
    ] = False,
    site: Annotated[Path | None, typer.Option(help="With --submit: the site file, unless it is your own.", metavar="FILE")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="With --submit: laid over the site file, such as time=2:00:00.", metavar="KEY=VALUE"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --submit: print the batch scripts and queue nothing.")] = False,
) -> None:
    """Probe the encoders of runs on the data sets of a suite, and write one table as Markdown, CSV and JSON.

    What was probed before on the same data with the same settings is taken from its report. A pair that fails does not keep the
    others from being probed; it is named at the end, and the exit code is 1.
    """
    from jepa_pipeline.config.suite import load_suite

    chosen = load_suite(suite)
    if not submit and (site or settings or dry_run):
        raise UserError("--site, --set and --dry-run are for --submit: add that, or leave them out")

    from jepa_pipeline.commands.benchmark import benchmark, submit_benchmark

    if submit:
        from jepa_pipeline.config.site import load_site

        submit_benchmark(chosen, suite, runs, out, load_site(site, settings or []), dry_run=dry_run)
    elif not benchmark(chosen, runs, out, collect=collect):
        raise typer.Exit(1)


def table(
    runs: Runs,
    out: Annotated[Path | None, typer.Option(help="Write the same as OUT.md, OUT.csv and OUT.json.", metavar="OUT")] = None,
) -> None:
    """Print runs side by side: where their configurations differ, how far they are, and what the newest probes found.

    Also runs that failed, or were submitted and have not begun. Folders that are no runs are left out.
    """
    from jepa_pipeline.commands.table import table

    table(runs, out)
