"""Initialization of a run (init_from): with the networks of another run, or with an encoder folder."""

import re
from collections.abc import Callable
from pathlib import Path

from jepa_pipeline.config.encoder_card import CARD, WEIGHTS
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.run_path import give_run
from jepa_pipeline.methods.method import Method
from jepa_pipeline.training.checkpoint import State, unsharded
from jepa_pipeline.training.collectives import run_on_rank_zero
from jepa_pipeline.training.dcp_storage import LoadTargets
from jepa_pipeline.training.init_from_encoder import check_encoder, init_from_encoder
from jepa_pipeline.training.init_from_run import find_checkpoint, init_from_run
from jepa_pipeline.training.module import Pretraining


def initialize(
    module: Pretraining, source: Path, config: RunConfig, log: Callable[[str], object], targets: LoadTargets = unsharded
) -> list[State]:
    """Load what init_from names into a run. All processes must call it.

    Args:
        module: of the run.
        source: init_from.
        config: of the run.
        log: called with sentences.
        targets: see `load_checkpoint`.

    Returns:
        The optimizer's state in a list; an empty list after an encoder folder, which has none.

    Raises:
        UserError: there is neither a run nor an encoder, or it does not fit this run.
    """
    encoder = run_on_rank_zero(lambda: find_encoder(source))
    if encoder is None:
        return [init_from_run(module, source, config, log, targets)]
    init_from_encoder(module, encoder, config, log)
    return []


def check_source(source: Path, config: RunConfig, build: Callable[[], Method]) -> str:
    """Return a sentence on what would initialize a run; of another run's checkpoint no tensors are read.

    Args:
        source: init_from.
        config: of the run.
        build: returns the run's method, of which shapes are enough.

    Raises:
        UserError: as `initialize`.
    """
    encoder = find_encoder(source)
    if encoder is None:
        return f"initialized with the networks of {find_checkpoint(source, config, build)}"
    return "; ".join([f"initialized with the encoder of {encoder}", *check_encoder(encoder, config, build())])


def find_encoder(source: Path) -> Path | None:
    """Return the encoder folder that init_from names; None if it names a run.

    Raises:
        UserError: it names neither.
    """
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
        if (folder / CARD).is_file() and (folder / WEIGHTS).is_file():
            return folder
    raise UserError(
        f"init_from is {source}, which holds no checkpoint and no encoder ({CARD} and {WEIGHTS}): {give_run(source)}, or an "
        "encoder folder"
    )
