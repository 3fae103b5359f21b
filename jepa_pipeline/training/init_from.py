"""A run that begins with the networks of another, as a cooldown does."""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.section import Section
from jepa_pipeline.files import atomic_write
from jepa_pipeline.training.checkpoint import Loaded, State, anywhere, find_whole, load, newest_about, read_about, steps
from jepa_pipeline.training.collectives import by_first
from jepa_pipeline.training.dcp_storage import Like
from jepa_pipeline.training.files import Damage
from jepa_pipeline.training.module import Pretraining

BEGINNING = "begun_from.json"
NETWORKS = re.compile(r"method\.(levels\.\d+\.)?(encoder|predictor|projector)\.")
MAY_DIFFER = ("image_size", "frames", "init_std")
"""Of an encoder: what its weights do not depend on once they are trained."""
METHOD = "method."


class Beginning(Section):
    """The checkpoint a run began with, in its folder as begun_from.json: killed and started again, it begins with no other."""

    path: str = Field(description="The checkpoint.")
    step: int = Field(description="Optimizer steps behind it.")
    samples: int = Field(description="Samples its networks had seen.")
    sha256: str = Field(description="SHA-256 of its files.")


def read_beginning(run: Path) -> Beginning | None:
    """What a run began with; None if with untrained networks."""
    path = run / BEGINNING
    return Beginning.model_validate_json(path.read_text()) if path.is_file() else None


def begin_from(module: Pretraining, folder: Path, tell: Callable[[str], object], like: Like = anywhere) -> State:
    """Put the networks of a run's newest checkpoint into the module; the optimizer's state, with the moments from there and
    everything else from this run. All processes call it; nothing changes in the other run's folder.

    Raises:
        UserError: there is none, it is not the one with which this run began before, or its networks or optimizer are others.
    """
    there = by_first(lambda: newest_about(folder / "checkpoints"))
    if there is not None:  # before anything is read by the places of this run's networks
        check_networks(there.results, module.config.results(), folder)
    loaded = find(folder, by_first(lambda: read_beginning(module.config.folder)), tell, like)
    state = {name.removeprefix(METHOD): value for name, value in loaded.state["module"].items() if name.startswith(METHOD)}
    ours = module.method.state_dict()
    positions = {name for name in ours if name.endswith("pos_embed")}  # fixed, and of another length for another grid
    differing = sorted(
        name
        for name in (ours.keys() | state.keys()) - positions
        if name not in ours or name not in state or ours[name].shape != state[name].shape
    )
    if differing:
        raise UserError(
            f"init_from is {folder}, whose networks are others than this run's (first difference: {differing[0]}): make "
            "target, regularizer, task and the number of masks as there"
        )
    module.method.load_state_dict(state | {name: ours[name] for name in positions}, strict=True)
    about = loaded.about
    beginning = Beginning(path=str(loaded.path), step=about.step, samples=about.samples, sha256=about.sha256)
    by_first(lambda: atomic_write(module.config.folder / BEGINNING, beginning.model_dump_json(indent=1) + "\n"))
    tell(f"begins with the networks of {loaded.path}, which have seen {about.samples:,} samples")
    groups = module.configure_optimizers().state_dict()["param_groups"]
    return {"state": loaded.state["optimizer"]["state"], "param_groups": groups}


def find(folder: Path, before: Beginning | None, tell: Callable[[str], object], like: Like) -> Loaded:
    """The checkpoint to begin with: the newest, or the one with which this run began before it was killed."""
    if not folder.is_dir():
        raise UserError(f"init_from is {folder}, and there is no such folder: name that of a run, such as runs/NAME")
    checkpoints = folder / "checkpoints"
    if before is None:
        loaded, damage = find_whole(checkpoints, lambda text: tell(f"{text}: beginning with the one before it"), like)
        if loaded is None and damage:
            raise UserError(f"init_from is {folder}, where {list(damage.values())[-1]} and no other is left: name another run")
        if loaded is None:
            raise UserError(f"init_from is {folder}, which holds no checkpoint: name the folder of a run, such as runs/NAME")
        return loaded
    same = by_first(lambda: with_hash(checkpoints, before.sha256))
    reason = f"is no longer in {folder}"
    if same is not None:
        try:
            return load(same, like)
        except Damage as error:
            reason = f"is damaged ({str(error).splitlines()[0]})"
    raise UserError(
        f"this run began with {before.path}, which {reason}: copy it back, or delete this run's folder to begin with the newest one"
    )


def with_hash(folder: Path, sha256: str) -> Path | None:
    """The checkpoint whose files have this hash."""
    for checkpoint in steps(folder):
        with suppress(Damage, OSError):  # another one of that run
            if read_about(checkpoint).sha256 == sha256:
                return checkpoint
    return None


def check_networks(there: Mapping[str, Any], here: Mapping[str, Any], folder: Path) -> None:
    """Refuse other networks where weights of the same shapes would not show it, and another optimizer."""
    keys = {key for key in there.keys() | here.keys() if NETWORKS.match(key) and not key.endswith(MAY_DIFFER)}
    for key in sorted(keys | {"optim.name"}):
        if there.get(key) != here.get(key):
            raise UserError(
                f"init_from is {folder}, where {key} is {there.get(key)}, and here it is {here.get(key)}: make it the same"
            )
