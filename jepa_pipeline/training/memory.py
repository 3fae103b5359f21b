"""Errors that mean a want of memory, for which torch, numpy and Python have different ones."""

import errno

import torch

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.run import RunConfig

WORDS = ("can't allocate memory", "MemoryError", "OutOfMemoryError")
"""Texts of torch's allocator on CPUs, which has no class of its own, and of errors that a data worker has passed on."""


def is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS)


def out_of_memory(config: RunConfig, when: str) -> UserError:
    """Return the sentence for the user; `when` it happened, such as "in step 3"."""
    optim = config.optim
    samples = optim.batch_size_global // (optim.accumulate_steps * config.trainer.processes)
    return UserError(
        f"the memory is not enough for micro-batches of {samples:,} samples ({when}): raise optim.accumulate_steps, lower "
        "optim.batch_size_global, or set trainer.checkpoint_activations=true"
    )
