"""`jepa export`."""

from pathlib import Path
from typing import Annotated

import typer

from jepa_pipeline.cli.arguments import Run, choose, parse_level
from jepa_pipeline.config.errors import UserError

FORMATS = ("timm", "hf", "onnx", "torch", "jepa")
"""The formats of commands/export.py, which waits for torch."""


def export(
    run: Run,
    format: Annotated[str | None, typer.Argument(help="The same as --to.")] = None,
    to: Annotated[
        str | None,
        typer.Option(help="Format: timm (images; default), hf (transformers), onnx, torch (torch.export) or jepa (this package)."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder; default: RUN/export/FORMAT, plus -DTYPE and -LEVEL if given.")
    ] = None,
    level: Annotated[
        str | None, typer.Option(help="Level of a stack of encoders, such as 1, exported without those above it; or all.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Type of the weights: fp32, or for onnx fp16.")] = None,
    predictor: Annotated[bool, typer.Option("--predictor", help="With --to hf: also export a video predictor.")] = False,
) -> None:
    """Export a run's encoder to a format that other code loads, and check that it computes the same."""
    chosen_level = None if level is None else parse_level(level)
    chosen = choose(format, to, "--to") or "timm"
    if chosen not in FORMATS:
        raise UserError(f"cannot export to '{chosen}': choose {', '.join(FORMATS)}")

    from jepa_pipeline.config.encoder_card import read_card

    read_card(run)

    from jepa_pipeline.commands.export import export

    export(run, to=chosen, out=out, level=chosen_level, dtype=dtype, predictor=predictor)
