"""Loading of a run's networks, predictors included, from its newest checkpoint."""

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file

from jepa_pipeline.config.encoder_card import WEIGHTS
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.saved_method import METHOD_WEIGHTS, SavedMethod, read_saved_method
from jepa_pipeline.files import sha256_of
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.methods.method import Method
from jepa_pipeline.models.weights import check_weights
from jepa_pipeline.training.checkpoint import METHOD_PREFIX, CheckpointInfo, load_latest_intact, unsharded


def load_method(run: str | Path) -> Method:
    """Return the method of a run, frozen and in eval mode, without changing the folder.

    Raises:
        UserError: the folder is not a run, or has no complete checkpoint.
    """
    return load_trained(Path(run), log=print)[0]


def load_imported(folder: Path) -> tuple[Method, SavedMethod]:
    """Return the method that an imported folder holds, frozen and in eval mode, and its card.

    Raises:
        UserError: it holds no predictor, or is damaged.
    """
    saved, card, path = read_saved_method(folder), check_weights(folder), folder / METHOD_WEIGHTS
    if not path.is_file() or sha256_of(path) != saved.sha256:
        raise UserError(f"{path} is missing or not what was written: import it again")
    method = build_method(saved.method)
    target = {f"target.{name}": tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    if saved.method.encoder != card.encoder:
        raise UserError(f"{folder} holds an encoder and a method of different sizes: import it again")
    method.load_state_dict(load_file(path) | target, strict=True)
    return method.requires_grad_(False).eval(), saved


def load_trained(run: Path, log: Callable[[str], object]) -> tuple[Method, CheckpointInfo]:
    """Return the method as load_method does, and the description of its checkpoint."""
    config = load_config(run)
    loaded, _ = load_latest_intact(run / "checkpoints", lambda text: log(f"{text}: trying the previous one"), unsharded)
    if loaded is None:
        raise UserError(f"{run} has no complete checkpoint, and so no predictor: train it further, or give another run")
    method = build_method(config.method)
    state = {
        name.removeprefix(METHOD_PREFIX): value for name, value in loaded.state["module"].items() if name.startswith(METHOD_PREFIX)
    }
    method.load_state_dict(state, strict=True)
    return method.requires_grad_(False).eval(), loaded.info
