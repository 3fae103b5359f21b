"""The networks of a run, predictors included, as they were at its newest checkpoint."""

from collections.abc import Callable
from pathlib import Path

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.methods.method import Method
from jepa_pipeline.training.checkpoint import About, anywhere, find_whole
from jepa_pipeline.training.init_from import METHOD


def load_method(run: str | Path) -> Method:
    """The whole method of a run, frozen and in eval mode; every weight must match.

    Raises:
        UserError: the folder holds no run, or no whole checkpoint.
    """
    return load_trained(Path(run), tell=print)[0]


def load_trained(run: Path, tell: Callable[[str], object]) -> tuple[Method, About]:
    """The same, and what is known of the checkpoint. Nothing is changed in the folder."""
    config = load_config(run)
    loaded, _ = find_whole(run / "checkpoints", lambda text: tell(f"{text}: looking at the one before it"), anywhere)
    if loaded is None:
        raise UserError(f"{run} holds no whole checkpoint, and so no predictor: train it further, or name another run")
    method = build_method(config.method)
    state = {name.removeprefix(METHOD): value for name, value in loaded.state["module"].items() if name.startswith(METHOD)}
    method.load_state_dict(state, strict=True)
    return method.requires_grad_(False).eval(), loaded.about
