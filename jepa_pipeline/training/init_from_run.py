"""Initialization of a run with the networks of another one, as for a cooldown on longer clips."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa_pipeline.config.errors import UserError, first_line
from jepa_pipeline.config.method import BaseMethodConfig
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.removed import result_value
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.run_path import give_run
from jepa_pipeline.config.stack import resolve_levels
from jepa_pipeline.distributed import shard_like
from jepa_pipeline.files import DamagedFile
from jepa_pipeline.methods.method import Method
from jepa_pipeline.models.fit_weights import fit_weights
from jepa_pipeline.training.begun_from import InitialWeights, read_initial_checkpoint, write_initial_checkpoint
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
from jepa_pipeline.training.same_networks import encoder_key, may_differ, name_differences

NETWORK_KEYS = re.compile(r"method\.(levels\.\d+\.)?(encoder|predictor|projector)\.")
FITTED = ("image_size", "patch_size", "frames")
"""Keys of the first level's encoder to which weights are fitted."""


def init_from_run(
    module: Pretraining, source: Path, config: RunConfig, log: Callable[[str], object], targets: LoadTargets = unsharded
) -> State:
    """Load the networks of another run's newest checkpoint. All processes must call it; the other run's folder stays as it is.

    Args:
        module: of this run.
        source: folder of the other run.
        config: of this run.
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
        check_same_networks(info.results, config.results(), source)
    loaded = load_initial_checkpoint(source, run_on_rank_zero(lambda: read_initial_checkpoint(config.folder)), log, targets)
    info, tensors = loaded.info, loaded.state["module"]
    state = {name.removeprefix(METHOD_PREFIX): value for name, value in tensors.items() if name.startswith(METHOD_PREFIX)}
    state, notes = fit_networks(state, saved_encoders(config.method, info.results), module.method)
    own = module.method.state_dict()
    check_same_shapes(shapes_of(state), shapes_of(own), source)
    module.method.load_state_dict({name: shard_like(value, own[name]) for name, value in state.items()}, strict=True)
    before = run_on_rank_zero(lambda: read_initial_checkpoint(source))
    origin = None if before is None else f"began from {before.describe()}"
    initial = InitialWeights(path=str(loaded.path), step=info.step, samples=info.samples, sha256=info.sha256, origin=origin)
    write_initial_checkpoint(config.folder, initial)
    log(f"initialized with the networks of {loaded.path}, trained on {info.samples:,} samples")
    optimizer, new = keep_moments(module, loaded.state["optimizer"]["state"])
    for note in [*notes, *new]:
        log(note)
    return optimizer


def shapes_of(state: Mapping[str, Any]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items() if isinstance(value, Tensor)}


def saved_encoders(method: BaseMethodConfig, results: Mapping[str, Any]) -> Sequence[EncoderConfig | BackboneConfig]:
    """Return the encoders of each level of a run with the networks of `method`, from that run's results."""
    first, prefix = method.encoder, encoder_key(method, 0)
    keys = [key for key in FITTED if key in type(first).model_fields]
    saved = {key: result_value(results, f"{prefix}{key}") for key in keys}
    first = first.model_copy(update={key: value for key, value in saved.items() if value is not None})
    return [*resolve_levels(first, method.above)] if hasattr(method, "above") else [first]  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]


def fit_networks(
    state: Mapping[str, Any], saved: Sequence[EncoderConfig | BackboneConfig], method: Method
) -> tuple[dict[str, Any], list[str]]:
    """Return the state of another run's method as this run's takes it, and sentences on what was changed. See `fit_weights`."""
    names, fitted, notes = {module: name for name, module in method.named_modules()}, dict(state), dict[str, None]()
    for number, (config, encoders) in enumerate(zip(saved, method.encoders_by_level(), strict=True), start=1):
        for encoder in encoders:
            prefix = f"{names[encoder.timm_module()]}."
            own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            level = fit_weights(own, config, encoder)
            fitted |= {f"{prefix}{name}": value for name, value in level.weights.items()}
            notes |= dict.fromkeys(f"level {number}: {note}" if len(saved) > 1 else note for note in level.notes)
    return fitted, [*notes]


def keep_moments(module: Pretraining, moments: Mapping[int, Mapping[str, Any]]) -> tuple[State, list[str]]:
    """Return the optimizer's state with the moments of another run, and a sentence if some are left out: of fitted parameters."""
    optimizer = module.configure_optimizers()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kept = {number: state for number, state in moments.items() if fits(state, parameters[number])}
    left = len(moments) - len(kept)
    note = f"the moments of {left} parameter{'s' * (left > 1)} whose shape has changed are new"
    return {"state": kept, "param_groups": optimizer.state_dict()["param_groups"]}, [note] if left else []


def fits(state: Mapping[str, Any], parameter: Tensor) -> bool:
    return all(value.shape == parameter.shape for value in state.values() if isinstance(value, Tensor) and value.ndim)


def find_checkpoint(source: Path, config: RunConfig, build: Callable[[], Method]) -> Path:
    """Return the checkpoint that would initialize a run, without reading its tensors; `init_from_run` checks their hashes too.

    Args:
        source: folder of the other run.
        config: of this run.
        build: returns this run's method, of which shapes are enough.

    Raises:
        UserError: as `init_from_run`.
    """
    info = latest_info(source / "checkpoints")
    if info is not None:
        check_same_networks(info.results, config.results(), source)
    reason = f"which holds no checkpoint: {give_checkpoint(source)}"
    for checkpoint in reversed(list_checkpoints(source / "checkpoints")):
        try:
            info = load_info(checkpoint)
            found = read_index(checkpoint, set(info.files)).state_dict_metadata
        except (DamagedFile, OSError) as error:
            reason = f"where {checkpoint} is damaged ({first_line(error)}) and no other is left: name another run"
            continue
        prefix, method = f"module.{METHOD_PREFIX}", build()
        shapes = {name.removeprefix(prefix): entry.size for name, entry in found.items() if name.startswith(prefix)}  # pyright: ignore[reportAttributeAccessIssue]
        own = shapes_of(method.state_dict())
        # values are needed only where they are fitted
        state = {name: torch.zeros(size, device="meta" if size == own.get(name) else "cpu") for name, size in shapes.items()}
        check_same_shapes(shapes_of(fit_networks(state, saved_encoders(config.method, info.results), method)[0]), own, source)
        return checkpoint
    raise UserError(f"init_from is {source}, {reason}")


def give_checkpoint(source: Path) -> str:
    """Return the end of a sentence about a run folder without checkpoints."""
    encoder = source / "encoder"
    return f"name {encoder} to begin with its encoder alone, or another run" if encoder.is_dir() else give_run(source)


def check_same_shapes(saved: Mapping[str, torch.Size], own: Mapping[str, torch.Size], source: Path) -> None:
    """Refuse a state with other tensors or shapes than this run's method has."""
    differing = sorted(name for name in own.keys() | saved.keys() if own.get(name) != saved.get(name))
    if differing:
        raise UserError(
            f"init_from is {source}, whose networks differ from this run's (first difference: {differing[0]}): make target, "
            "regularizer, task and the number of masks the same"
        )


def load_initial_checkpoint(
    source: Path, before: InitialWeights | None, log: Callable[[str], object], targets: LoadTargets
) -> LoadedCheckpoint:
    """Load the newest checkpoint, or the one with which this run was initialized before it was killed."""
    checkpoints = source / "checkpoints"
    if before is None:
        loaded, damaged = load_latest_intact(checkpoints, lambda text: log(f"{text}: using the one before it"), targets)
        if loaded is None and damaged:
            raise UserError(f"init_from is {source}, where {list(damaged.values())[-1]} and no other is left: name another run")
        if loaded is None:
            raise UserError(f"init_from is {source}, which holds no checkpoint: {give_checkpoint(source)}")
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
    keys = {key for key in source_results.keys() | results.keys() if NETWORK_KEYS.match(key) and not may_differ(key)}
    differences = name_differences(source_results, results, sorted(keys | {"optim.name"}))
    methods = [values_of.get("method.name") for values_of in (source_results, results)]
    if differences and methods[0] != methods[1]:
        raise UserError(
            f"init_from is {source}, where method.name is {methods[0]}, but here it is {methods[1]}, and their networks differ: "
            f"name a run of {methods[1]}, or {source / 'encoder'} to begin with its encoder alone"
        )
    if differences:
        raise UserError(f"init_from is {source}, where {differences}")
