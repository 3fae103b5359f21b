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
            help="Layout of the weights: ijepa, vjepa, vjepa2, vjepa2.1, vit, dinov2, dinov3, timm, timm:NAME; default: detected.",
        ),
    ] = None,
    which: Annotated[
        str | None,
        typer.Option(metavar="NETWORK", help="Network to load from a checkpoint: target_encoder (the EMA; default) or encoder."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New folder; default: imported/NAME.")] = None,
    license: Annotated[str | None, typer.Option(help="License of the weights; default: from the hub, else unknown.")] = None,
    predictor: Annotated[
        bool,
        typer.Option("--predictor", help="Also write the context encoder and the predictor of a checkpoint, for `jepa energy`."),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="Values that the file does not hold, as KEY=VALUE, such as frames=64: num_heads, predictor_heads, image_size, "
            "frames, fps, stride, mean, std, bits."
        ),
    ] = None,
) -> None:
    """Convert published weights to an encoder folder, which probe, table, benchmark, embed and export accept.

    Loading is strict: every tensor must match. No code in the file is run.
    """
    from jepa_pipeline.config.parse import load_overrides
    from jepa_pipeline.config.published import ImportSettings

    if stray := [setting for setting in settings or [] if "=" not in setting]:
        raise UserError(f"{stray[0]} is not a KEY=VALUE setting: give one source, then settings")
    given = load_overrides(ImportSettings, settings or [])

    from jepa_pipeline.checks.given_paths import check_source

    check_source(source, out)

    from jepa_pipeline.commands.import_weights import import_weights

    import_weights(source, family, which=which, out=out, license=license, given=given, predictor=predictor)
