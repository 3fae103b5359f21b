"""`jepa probe`."""

from typing import Annotated

import typer

from jepa_pipeline.cli.arguments import Json, Run, parse_level, split_data


def probe(
    run: Run,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATA] [KEY=VALUE]...", help="Labeled shards, as with --data, and probe settings, such as iterations=20."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Labeled shards: a folder or URL with train/ and test/ in it, or that of the training shards; default: the folder "
            "around the run's own training shards."
        ),
    ] = None,
    test: Annotated[str | None, typer.Option(help="Test shards, if DATA holds only training shards.")] = None,
    level: Annotated[
        str | None,
        typer.Option(help="Level of a stack of encoders, such as 2, or all (concatenated); default: each level, and all."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Probe a run's encoder with linear heads and nearest neighbors, next to an untrained encoder and raw pixels.

    'protocols=[linear,knn,attentive]' adds heads that attend to all tokens. On videos, probes of single frames and of shuffled
    frames show how much of the accuracy depends on time. A stack of encoders has rows for each level and for all concatenated.
    """
    from jepa_pipeline.config.parse import load_overrides
    from jepa_pipeline.config.probe import ProbeConfig

    data, assignments = split_data(settings or [], data)
    probe_config = load_overrides(ProbeConfig, assignments)
    chosen_level = None if level is None else parse_level(level)

    from jepa_pipeline.checks.given_paths import check_probing

    check_probing(run, data, test)

    from jepa_pipeline.commands.probe import probe
    from jepa_pipeline.console import json_alone

    with json_alone(as_json) as print_json:
        rows = probe(run, data, test=test, config=probe_config, level=chosen_level)
        print_json({"rows": [row.model_dump(mode="json") for row in rows]})
