"""`jepa config check`: what is wrong with a recipe, and what would keep it from running here."""

from jepa_pipeline.checks.recipe import (
    check_manifests,
    check_memory,
    check_recipe,
    check_shared_memory,
    compare_cores,
    this_machine,
)
from jepa_pipeline.checks.result import require
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.worker_pool import available_cores


def check_config(config: RunConfig, timed: bool = False) -> None:
    """Check all that can be checked without a device and without decoding a sample; warnings are printed.

    Data that is not here is a warning: the recipe may be for another machine. With `timed`, steps are taken and the time of the
    whole run is printed.

    Raises:
        UserError: the run could not start, with a line per reason.
    """
    local_ranks = config.trainer.devices or 1
    results = [
        *check_recipe(config),
        *check_memory(config, this_machine(config, config.trainer.processes, local_ranks)),
        *check_manifests(config, may_be_missing=True),
    ]
    shared_memory = check_shared_memory(config, config.trainer.processes, local_ranks)
    if shared_memory.level == "fail":
        shared_memory = shared_memory._replace(level="warn")  # like the cores, it may be that of another machine
    require([*results, compare_cores(available_cores(), config, local_ranks), shared_memory])
    if timed:
        from jepa_pipeline.checks.duration import check_duration  # imports torch, which takes seconds

        duration = check_duration(config)
        require(duration)
        print("\n".join(result.text for result in duration if result.level == "ok"))
