"""Checks before a run is submitted, so that a mistake costs seconds and not a place in the queue."""

from jepa_pipeline.checks.recipe import check_manifests, check_recipe
from jepa_pipeline.checks.result import CheckResult, from_error, require
from jepa_pipeline.checks.storage import check_space, free_bytes, max_checkpoints, temporary_folder
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.methods import MethodConfig
from jepa_pipeline.config.run import RunConfig

MAX_HEAD_BYTES, MAX_TIMM_BYTES = 10e9, 50e9
"""Generous limits of a checkpoint's predictors and heads, and of a checkpoint with any of timm's networks."""


def check_submission(config: RunConfig, ranks: int, made_later: bool = False) -> None:
    """Check that a run with this number of ranks can begin; warnings are printed.

    Args:
        config: the run.
        ranks: its processes.
        made_later: data and the run in init_from may be made by a job before this one if they are missing.

    Raises:
        UserError: it cannot, with a line per reason.
    """
    results = []
    try:
        config.check_processes(ranks)
    except ValueError as error:
        results.append(CheckResult("batch", "fail", str(error), "change optim.batch_size_global, or the number of devices"))
    results += [*check_manifests(config, may_be_missing=made_later), *check_recipe(config, made_later)]
    require([*results, *check_folder(config, ranks)])


def find_data_errors(config: RunConfig) -> list[str]:
    """Return what is wrong with the data, as far as manifests tell."""
    failures = [result for result in check_manifests(config) if result.level == "fail"]
    return [f"{result.text}: {result.cure}" for result in failures]


def check_folder(config: RunConfig, ranks: int) -> list[CheckResult]:
    """Check that the run folder can be created and has space for checkpoints."""
    try:
        with temporary_folder(config.folder):
            pass
    except OSError as error:
        text = f"the run folder {config.folder} cannot be written ({error.strerror})"
        return [CheckResult("run folder", "fail", text, "choose another one with output=FOLDER, or check its permissions")]
    if free_bytes(config.folder) > max_checkpoints(config.checkpoint) * bound_checkpoint_bytes(config.method):
        return []
    from jepa_pipeline.checks.checkpoint_size import estimate_checkpoint_bytes

    try:
        return [check_space(config.folder, config.checkpoint, estimate_checkpoint_bytes(config, ranks))]
    except UserError as error:
        return [from_error("method", error)]


def bound_checkpoint_bytes(method: MethodConfig) -> float:
    """Return an upper bound of a checkpoint's bytes without importing torch and timm, which takes seconds.

    Each encoder's weights are counted twice and four times over: encoder, target and two moments of the optimizer.
    """
    if method.encoder.timm:
        return MAX_TIMM_BYTES
    sizes = (encoder.size for encoder in method.encoders)  # pyright: ignore[reportAttributeAccessIssue]  # not timm's
    return MAX_HEAD_BYTES + sum(2 * 16 * depth * width**2 * (4 + 2 * mlp_ratio) for width, depth, _, mlp_ratio in sizes)
