"""`jepa embed`."""

from pathlib import Path
from typing import Annotated

import typer

from jepa_pipeline.cli.arguments import Run, parse_level


def embed(
    run: Run,
    data: Annotated[str, typer.Argument(help="A folder of images or videos, nested in any way, or the folder or URL of shards.")],
    out: Annotated[Path, typer.Option(help="File to write: .parquet (needs pyarrow), or .npy with a list of its rows beside it.")],
    features: Annotated[
        str, typer.Option(help="As in probes: last, the pooled features; last4, the means of the last four blocks, concatenated.")
    ] = "last",
    level: Annotated[
        str | None, typer.Option(help="Level of a stack of encoders, such as 2, or all, concatenated, which is the default.")
    ] = None,
    segments: Annotated[int, typer.Option(min=1, help="Evenly spaced clips per video, whose features are averaged.")] = 2,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:NUMBER; default: a GPU if there is one.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images, or frames of all clips, per forward pass.")] = 256,
    workers: Annotated[int, typer.Option(min=0, help="Data workers.")] = 2,
) -> None:
    """Write an encoder's features of all images or videos of a folder, in order of their names, or of shards, in their order.

    There is a row for each: its name, its label if it has one, its features, and for a damaged one the reason and no features.
    An interrupted command continues when it is run again.
    """
    chosen_level = None if level is None else parse_level(level)

    from jepa_pipeline.checks.given_paths import check_samples
    from jepa_pipeline.config.encoder_card import read_card

    read_card(run)
    check_samples(data)

    from jepa_pipeline.commands.embed import embed

    embed(
        run,
        data,
        out,
        features=features,
        level=chosen_level,
        segments=segments,
        device=device,
        batch_size=batch_size,
        workers=workers,
    )
