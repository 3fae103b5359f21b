"""`jepa tune`."""

from typing import Annotated

import typer

from jepa_pipeline.cli.arguments import Json, Overrides, Recipe


def tune(
    recipe: Recipe,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=3, help="Most optimizer steps of a trial, whose losses are compared.")] = 50,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds after which a trial ends; its first steps do not count.")] = 15.0,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Try only this key, such as trainer.compile or data.workers; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Try a recipe for a few seconds each with other settings, and say which train it fastest on this machine.

    Tried are trainer.compile, trainer.precision, optim.accumulate_steps, trainer.checkpoint_activations, data.workers,
    views.device, trainer.threads, trainer.devices and trainer.strategy. A setting whose losses differ by more than those of another
    seed is refused. Nothing is saved.
    """
    from jepa_pipeline.config.load import load_config

    run = load_config(recipe, overrides or [])

    from jepa_pipeline.checks.given_paths import check_run
    from jepa_pipeline.console import json_alone

    check_run(run)

    from jepa_pipeline.commands.tune import tune

    with json_alone(as_json) as print_json:
        print_json(tune(recipe, overrides or [], steps=steps, seconds=seconds, only=only or ()))
