"""The kind of folder that init_from names, told without torch."""

import re
from pathlib import Path

from jepa_pipeline.config.encoder_card import CARD, WEIGHTS, holds_encoder
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.run_path import give_run


def find_encoder(source: Path) -> Path | None:
    """Return the encoder folder that init_from names; None if it names a run.

    Raises:
        UserError: it names neither.
    """
    if re.match(r"(?:hf|timm):", str(source)):
        raise UserError(f"init_from is {source}, but it is read from a local folder: make one with `jepa import {source}`")
    if re.match(r"[a-z0-9]+:/", str(source)):
        raise UserError(f"init_from is {source}, but it is read from a local folder: copy the run here and name its folder")
    if source.is_file():
        raise UserError(
            f"init_from is {source}, which is a file: {give_run(source)}, or what `jepa import` makes of published weights"
        )
    if not source.is_dir():
        raise UserError(f"init_from is {source}, but there is no such folder: {give_run(source)}")
    if (source / "checkpoints").is_dir() or (source / "config.yaml").is_file():
        return None
    for folder in (source, source / "encoder"):  # as in a snapshot
        if holds_encoder(folder):
            return folder
    raise UserError(
        f"init_from is {source}, which holds no checkpoint and no encoder ({CARD} and {WEIGHTS}): {give_run(source)}, or an "
        "encoder folder"
    )
