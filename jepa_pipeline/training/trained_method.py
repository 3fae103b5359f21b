"""Loading of a run's networks, predictors included, from its newest checkpoint."""

from collections.abc import Callable
from pathlib import Path

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.methods.method import Method
from jepa_pipeline.training.checkpoint import METHOD_PREFIX, CheckpointInfo, load_latest_intact, unsharded


def load_method(run: str | Path) -> Method:
    """Return the method of a run, frozen and in eval mode, without changing the folder.

    Raises:
        UserError: the folder is not a run, or has no complete checkpoint.
    """
    return load_trained(Path(run), log=print)[0]


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
