"""`jepa import`."""

from pathlib import Path
from typing import Annotated

import typer

from jepa_pipeline.config.errors import UserError


def import_weights(
    source: Annotated[
        str,
        typer.Argument(help="A file or folder of weights, or a name on a hub: hf:OWNER/NAME[@REVISION], or timm:NAME."),
    ],
    family: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="NAME",
            help="Layout of the weights: ijepa, vjepa, vjepa2, vjepa2.1, vit, dinov2, dinov3, timm or timm:NAME; default: "
            "recognized where there is no doubt.",
        ),
    ] = None,
    which: Annotated[
        str | None,
        typer.Option(metavar="NETWORK", help="Network of a checkpoint: target_encoder (default: the average, EMA) or encoder."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New folder; default: imported/NAME.")] = None,
    license: Annotated[str | None, typer.Option(help="License of the weights; default: as the hub says, else unknown.")] = None,
    predictor: Annotated[
        bool,
        typer.Option("--predictor", help="Also write the context encoder and the predictor of a checkpoint, for `jepa energy`."),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="Say what no file does, such as frames=64: num_heads, predictor_heads, image_size, frames, fps, stride, mean, "
            "std, bits."
        ),
    ] = None,
) -> None:
    """Write published weights as an encoder folder, which probe, benchmark and export take like a run's.

    Every tensor must find its place in the network; nothing that is in a file is run.
    """
    from jepa_pipeline.config.parse import load_overrides
    from jepa_pipeline.config.published import GivenConfig

    if stray := [setting for setting in settings or [] if "=" not in setting]:
        raise UserError(f"{stray[0]} is no setting KEY=VALUE: the first argument is the source, and only one is imported at a time")
    given = load_overrides(GivenConfig, settings or [])

    from jepa_pipeline.commands.import_weights import import_weights

    import_weights(source, family, which=which, out=out, license=license, given=given, predictor=predictor)
