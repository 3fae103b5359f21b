"""Initialization of a run with the networks of another one (init_from), as for a cooldown on longer clips."""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from jepa_pipeline.config.errors import UserError, first_line
from jepa_pipeline.config.removed import result_value
from jepa_pipeline.config.run_path import give_run
from jepa_pipeline.config.section import Section
from jepa_pipeline.files import DamagedFile, atomic_write
from jepa_pipeline.training.checkpoint import (
    METHOD_PREFIX,
    LoadedCheckpoint,
    State,
    latest_info,
    list_checkpoints,
    load_checkpoint,
    load_info,
    load_latest_intact,
    unsharded,
)
from jepa_pipeline.training.collectives import run_on_rank_zero
from jepa_pipeline.training.dcp_storage import LoadTargets, read_index
from jepa_pipeline.training.module import Pretraining

INITIAL_CHECKPOINT = "begun_from.json"
NETWORK_KEYS = re.compile(r"method\.(levels\.\d+\.)?(encoder|predictor|projector)\.")
MAY_DIFFER = ("image_size", "frames", "init_std", "init_depth_scaling", "mask_token_std")
"""Keys of a network on which its trained weights do not depend."""


class InitialCheckpoint(Section):
    """The checkpoint whose networks a run was initialized with: begun_from.json in its folder."""

    path: str = Field(description="The checkpoint.")
    step: int = Field(description="Optimizer steps behind it.")
    samples: int = Field(description="Samples its networks had seen.")
    sha256: str = Field(description="SHA-256 of its files.")


def read_initial_checkpoint(run: Path) -> InitialCheckpoint | None:
    """Return what a run was initialized with; None if with random weights."""
    path = run / INITIAL_CHECKPOINT
    return InitialCheckpoint.model_validate_json(path.read_text()) if path.is_file() else None


def init_from_run(
    module: Pretraining,
    source: Path,
    run: Path,
    results: Mapping[str, Any],
    log: Callable[[str], object],
    targets: LoadTargets = unsharded,
) -> State:
    """Load the networks of another run's newest checkpoint. All processes must call it; the other run's folder stays as it is.

    Args:
        module: of this run.
        source: folder of the other run.
        run: folder of this run.
        results: the values of this run's configuration that can change what is computed, by dotted key.
        log: called with sentences.
        targets: see `load_checkpoint`.

    Returns:
        The optimizer's state: that of each parameter from the other run, the options from this one.

    Raises:
        UserError: the other run has no checkpoint, not the one with which this run was initialized before, or other networks or
            another optimizer.
    """
    info = run_on_rank_zero(lambda: latest_info(source / "checkpoints"))
    if info is not None:  # before tensors are loaded into shards of this run's networks, where others would not fit
        check_same_networks(info.results, results, source)
    loaded = load_initial_checkpoint(source, run_on_rank_zero(lambda: read_initial_checkpoint(run)), log, targets)
    tensors = loaded.state["module"]
    state = {name.removeprefix(METHOD_PREFIX): value for name, value in tensors.items() if name.startswith(METHOD_PREFIX)}
    own = module.method.state_dict()
    shapes = {name: value.shape for name, value in state.items() if isinstance(value, Tensor)}
    positions = check_same_shapes(shapes, {name: value.shape for name, value in own.items()}, source)
    module.method.load_state_dict(state | {name: own[name] for name in positions}, strict=True)
    info = loaded.info
    initial = InitialCheckpoint(path=str(loaded.path), step=info.step, samples=info.samples, sha256=info.sha256)
    run_on_rank_zero(lambda: atomic_write(run / INITIAL_CHECKPOINT, initial.model_dump_json(indent=1) + "\n"))
    log(f"initialized with the networks of {loaded.path}, trained on {info.samples:,} samples")
    groups = module.configure_optimizers().state_dict()["param_groups"]
    return {"state": loaded.state["optimizer"]["state"], "param_groups": groups}


def find_source(source: Path, results: Mapping[str, Any], build: Callable[[], Mapping[str, Tensor]]) -> Path:
    """Return the checkpoint that would initialize a run, without reading its tensors; `init_from_run` checks their hashes too.

    Args:
        source: folder of the other run.
        results: see `init_from_run`.
        build: returns the state of this run's method, of which shapes are enough.

    Raises:
        UserError: as `init_from_run`.
    """
    check_is_run(source)
    info = latest_info(source / "checkpoints")
    if info is not None:
        check_same_networks(info.results, results, source)
    reason = f"which holds no checkpoint: {give_run(source)}"
    for checkpoint in reversed(list_checkpoints(source / "checkpoints")):
        try:
            found = read_index(checkpoint, set(load_info(checkpoint).files)).state_dict_metadata
        except (DamagedFile, OSError) as error:
            reason = f"where {checkpoint} is damaged ({first_line(error)}) and no other is left: name another run"
            continue
        prefix = f"module.{METHOD_PREFIX}"
        shapes = {name.removeprefix(prefix): entry.size for name, entry in found.items() if name.startswith(prefix)}  # pyright: ignore[reportAttributeAccessIssue]
        check_same_shapes(shapes, {name: value.shape for name, value in build().items()}, source)
        return checkpoint
    raise UserError(f"init_from is {source}, {reason}")


def check_is_run(source: Path) -> None:
    """Raise UserError if init_from is not a folder."""
    if re.match(r"[a-z0-9]+:/", str(source)):
        raise UserError(f"init_from is {source}, but it is read from a local folder: copy the run here and name its folder")
    if source.is_file():
        raise UserError(f"init_from is {source}, which is a file: {give_run(source)}")
    if not source.is_dir():
        raise UserError(f"init_from is {source}, but there is no such folder: {give_run(source)}")


def check_same_shapes(saved: Mapping[str, torch.Size], own: Mapping[str, torch.Size], source: Path) -> set[str]:
    """Refuse a state with other tensors or shapes than this run's method has; return the names of those that may differ."""
    positions = {name for name in own if name.endswith("pos_embed")}  # not trained, and of another length for another grid
    differing = sorted(name for name in (own.keys() | saved.keys()) - positions if own.get(name) != saved.get(name))
    if differing:
        raise UserError(
            f"init_from is {source}, whose networks differ from this run's (first difference: {differing[0]}): make target, "
            "regularizer, task and the number of masks the same"
        )
    return positions


def load_initial_checkpoint(
    source: Path, before: InitialCheckpoint | None, log: Callable[[str], object], targets: LoadTargets
) -> LoadedCheckpoint:
    """Load the newest checkpoint, or the one with which this run was initialized before it was killed."""
    check_is_run(source)
    checkpoints = source / "checkpoints"
    if before is None:
        loaded, damaged = load_latest_intact(checkpoints, lambda text: log(f"{text}: using the one before it"), targets)
        if loaded is None and damaged:
            raise UserError(f"init_from is {source}, where {list(damaged.values())[-1]} and no other is left: name another run")
        if loaded is None:
            raise UserError(f"init_from is {source}, which holds no checkpoint: {give_run(source)}")
        return loaded
    same = run_on_rank_zero(lambda: find_by_hash(checkpoints, before.sha256))
    reason = f"is no longer in {source}"
    if same is not None:
        try:
            return load_checkpoint(same, targets)
        except DamagedFile as error:
            reason = f"is damaged ({first_line(error)})"
    raise UserError(
        f"this run was initialized with {before.path}, which {reason}: copy it back, or delete this run's folder to use the "
        "newest one"
    )


def find_by_hash(folder: Path, sha256: str) -> Path | None:
    """Return the checkpoint whose files have this hash; None if there is none."""
    for checkpoint in list_checkpoints(folder):
        with suppress(DamagedFile, OSError):  # of another one, which does not matter here
            if load_info(checkpoint).sha256 == sha256:
                return checkpoint
    return None


def check_same_networks(source_results: Mapping[str, Any], results: Mapping[str, Any], source: Path) -> None:
    """Refuse other networks, also where weights of the same shapes would not show it, and another optimizer."""
    keys = {key for key in source_results.keys() | results.keys() if NETWORK_KEYS.match(key) and not key.endswith(MAY_DIFFER)}
    values = {key: (result_value(source_results, key), result_value(results, key)) for key in sorted(keys | {"optim.name"})}
    differing = [f"{key} is {there}, but here it is {here}" for key, (there, here) in values.items() if there != here]
    methods = [values_of.get("method.name") for values_of in (source_results, results)]
    if differing and methods[0] != methods[1]:
        raise UserError(
            f"init_from is {source}, where method.name is {methods[0]}, but here it is {methods[1]}, and their networks differ: "
            f"name a run of {methods[1]}"
        )
    if differing:
        cure = "make it the same" if len(differing) == 1 else "make them the same"
        more = f" and {len(differing) - 3} more keys differ" if len(differing) > 3 else ""
        raise UserError(f"init_from is {source}, where {'; '.join(differing[:3])}{more}: {cure}")
