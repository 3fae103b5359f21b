"""`jepa selftest`: tests of this machine and of a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from jepa_pipeline.cli.arguments import Overrides

selftest = typer.Typer(help="Test on this machine that runs resume exactly and survive faults.", no_args_is_help=True)


@selftest.command()
def resume(
    recipe: Annotated[Path | None, typer.Argument(help="A YAML recipe; default: a small I-JEPA on synthetic images.")] = None,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=6, help="Optimizer steps of both runs.")] = 12,
    kills: Annotated[int, typer.Option(min=1, help="How often the second run is killed and resumed.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the times at which it is killed.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the runs; default: a temporary one.")] = None,
) -> None:
    """Kill a run at random times, resume it, and compare all tensors of every step with an undisturbed run.

    Exit code 1 if any differs.
    """
    from jepa_pipeline.config.load import load_config

    run = load_config(recipe, overrides or []) if recipe else None
    if run is not None:
        from jepa_pipeline.checks.given_paths import check_run

        check_run(run)

    from jepa_pipeline.commands.selftest import resume as test_resume

    if not test_resume(run, total_steps=steps, kills=kills, seed=seed, out=out):
        raise typer.Exit(1)


@selftest.command()
def faults(
    recipe: Annotated[Path | None, typer.Argument(help="A YAML recipe; default: a small I-JEPA on synthetic images.")] = None,
    overrides: Overrides = None,
    minutes: Annotated[float, typer.Option(min=0, help="Time after which no other run is started.")] = 2.0,
    count: Annotated[int | None, typer.Option("--faults", min=1, help="End after so many faults instead of after a time.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="FAULT", help="Only this fault; repeatable. Default: those of the table.")
    ] = None,
    steps: Annotated[int, typer.Option(min=6, help="Optimizer steps of each run.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first run's faults and their moments.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the runs; default: a temporary one.")] = None,
) -> None:
    """Disturb runs in every way that a machine may, and compare them with a run that was left alone.

    Processes are killed (kill, kill-one), stopped for a while (stop) and signaled (sigint, sigterm, sigusr1), the disk is full
    (full-disk), shards are damaged (damaged-shards), the server of the data is slow and fails (slow-server), while the run imports,
    trains or writes a checkpoint. After each fault the same command resumes the run. At the end every tensor of every step, the
    checkpoint and the encoder must be equal, and no process and no temporary file be left. Exit code 1 if anything is not.
    """
    from jepa_pipeline.config.load import load_config

    run = load_config(recipe, overrides or []) if recipe else None
    if run is not None:
        from jepa_pipeline.checks.given_paths import check_run

        check_run(run)

    from jepa_pipeline.commands.faults import faults as test_faults

    arguments = [str(recipe), *(overrides or [])] if recipe else []
    if not test_faults(run, arguments, minutes=minutes, count=count, only=only or [], total_steps=steps, seed=seed, out=out):
        raise typer.Exit(1)
