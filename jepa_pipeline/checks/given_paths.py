"""Checks of what a command was given, made before anything is imported that takes seconds: whether it is there at all."""

import os
from collections.abc import Sequence
from pathlib import Path

from jepa_pipeline.config.encoder_card import holds_encoder, read_card
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.init_from import find_encoder
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.output_place import check_place
from jepa_pipeline.config.parse import load_overrides
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.run_path import give_run
from jepa_pipeline.data.manifest import check_there, load_manifest
from jepa_pipeline.data.missing import MANIFEST
from jepa_pipeline.data.remote import is_remote

LAUNCHED = ("RANK", "SLURM_PROCID")
"""Variables of a process that is one of several, of which one reports a mistake once for all."""


def check_run(config: RunConfig) -> None:
    """Check that the data of a run, and what initializes it, are there, as far as that is on this machine.

    Raises:
        UserError: they are not.
    """
    if any(name in os.environ for name in LAUNCHED):
        return
    for source in config.data.train:
        check_there(source.path)
    if config.init_from is not None and not any((config.folder / "checkpoints").glob("step-*")):  # else it is not read again
        find_encoder(config.init_from)


def check_probing(run: Path, data: str | None, test: str | None) -> None:
    """Check that the encoder and the data of a probe are there.

    Raises:
        UserError: they are not.
    """
    if data is not None and not is_encoder(run) and is_encoder(Path(data)):
        raise UserError(f"{run} is no run, but {data} is: name the run first, as in `jepa probe {data} {run}`")
    read_card(run)
    check_probe((), data, test, made_later=False)


def is_encoder(folder: Path) -> bool:
    """Return whether a folder is that of a run with an encoder, or an encoder's."""
    return holds_encoder(folder) or holds_encoder(folder / "encoder")


def check_energy(run: Path, data: str | None, past: float) -> None:
    """Check that the run of an energy and its data are there.

    Raises:
        UserError: they are not, or the share of the past is none.
    """
    if not run.is_dir():
        raise UserError(f"no folder {run}: {give_run(run)}")
    if not holds_encoder(run):
        load_config(run)
    if not 0 < past < 1:
        raise UserError(f"--past is {past:g}, but it is the share of a clip that is context: give one between 0 and 1")
    if data is not None and not is_remote(data) and not (Path(data) / "test" / MANIFEST).is_file():
        check_there(data)


def check_samples(data: str) -> None:
    """Raise UserError if the samples of features, files or shards, are not there."""
    if not is_remote(data) and not Path(data).is_dir():
        found = "is a file" if Path(data).exists() else "is not there"
        raise UserError(f"{data} {found}: name a folder of images or videos, or the folder or URL of shards")


def check_source(source: str, out: Path | None) -> None:
    """Check that weights to be imported are there, unless they are on a hub, and that the place for them can be made.

    Raises:
        UserError: they are not, or it cannot.
    """
    if not source.startswith(("hf:", "timm:")) and not Path(source).exists():
        raise UserError(f"there is no {source}: give a file or folder of weights, or a name on a hub, such as hf:OWNER/NAME")
    if out is not None:
        check_place(out)


def check_media(folder: Path) -> None:
    """Raise UserError if there is no folder to make shards of."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name the folder that holds the images or videos")


def check_folders(runs: Sequence[Path]) -> list[Path]:
    """Return the folders of runs or encoders; raise UserError if one of them is not there."""
    for run in runs:
        if not run.is_dir():
            raise UserError(f"no folder {run}: give run folders, such as runs/NAME")
    return [*runs]


def check_probe(settings: Sequence[str], data: str | None, test: str | None, made_later: bool) -> None:
    """Check the settings of a probe, and its data if it is given and local.

    Args:
        settings: assignments of probe settings.
        data: location of training data, or of a folder with train/ and test/.
        test: location of test data.
        made_later: data that is missing may be made by a job before this one.

    Raises:
        UserError: the settings or the data are unusable.
    """
    load_overrides(ProbeConfig, settings)
    if data is not None and test is None:
        locations = [f"{data}/train", f"{data}/test"]
    else:
        locations = [location for location in (data, test) if location is not None]
    for location in locations:
        if not is_remote(location) and not (made_later and not Path(location).exists()):
            load_manifest(location)
