"""Check of the time that a run would take on this machine."""

from jepa_pipeline.checks.result import CheckResult, from_error
from jepa_pipeline.config.errors import UserError, is_out_of_memory
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.training.memory import out_of_memory
from jepa_pipeline.training.setup import choose_accelerator
from jepa_pipeline.training.timing import time_step

DAY_S = 24 * 3600.0
LONG_DAYS = 7.0
"""Days above which an estimate is a warning."""


def check_duration(config: RunConfig) -> list[CheckResult]:
    """Estimate from timed steps how long the whole run would take."""
    try:
        accelerator = choose_accelerator(config.trainer.accelerator)
        timed = time_step(config, accelerator)
    except (RuntimeError, OSError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return [from_error("duration", out_of_memory(config, "in a timed step"))]
    except UserError as error:
        text, _, cure = str(error).rpartition(": ")
        return [CheckResult("duration", "fail", f"no step can be timed: {text}", cure)]
    optim = config.optim
    total_s = optim.total_steps * timed.step_s
    text = (
        f"the run would take about {format_duration(total_s)} on this machine ({accelerator}): {optim.total_steps:,} steps of "
        f"{format_duration(timed.step_s)}, estimated from {timed.samples:,} samples, of which each took "
        f"{1e3 * timed.compute_s:,.3g} ms to compute and {1e3 * timed.load_s:,.3g} ms to load, in one process; communication "
        "between several is not counted, so that they take longer"
    )
    if total_s > LONG_DAYS * DAY_S:
        cure = "lower optim.total_samples or the size of the encoder, or use more or faster devices"
        return [CheckResult("duration", "warn", text, cure)]
    return [CheckResult("duration", "ok", text)]


def format_duration(seconds: float) -> str:
    """Return a time with its unit, such as "4.6 s", "3.2 hours", "12 days" or "40 weeks"."""
    units = (("years", 365 * DAY_S), ("weeks", 7 * DAY_S), ("days", DAY_S), ("hours", 3600.0), ("minutes", 60.0), ("s", 1.0))
    for name, length in units:
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {name}" if seconds >= 100 * length else f"{seconds / length:.2g} {name}"
    return f"{seconds:.2g} s"
