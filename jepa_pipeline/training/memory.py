"""The sentence for a want of memory in a step."""

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.run import RunConfig


def out_of_memory(config: RunConfig, when: str) -> UserError:
    """Return the sentence for the user; `when` it happened, such as "in step 3"."""
    optim = config.optim
    samples = optim.batch_size_global // (optim.accumulate_steps * config.trainer.processes)
    return UserError(
        f"the memory is not enough for micro-batches of {samples:,} samples ({when}): raise optim.accumulate_steps, lower "
        "optim.batch_size_global, or set trainer.checkpoint_activations=true"
    )
