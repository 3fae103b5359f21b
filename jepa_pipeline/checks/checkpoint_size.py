"""The size of a checkpoint, from the networks' shapes."""

import torch
from torch import Tensor

from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.trainer import HEALTH_VECTORS
from jepa_pipeline.methods.build import build_method

FLOAT_BYTES = 4
BYTES_PER_TENSOR, BYTES_PER_FILE = 1800, 3000
"""Overhead beyond the values: a tensor's name, type and location, and what else a file contains."""


def estimate_checkpoint_bytes(config: RunConfig, ranks: int = 1) -> int:
    """Return the bytes of weights, target, buffers and optimizer state, and of each rank's vectors for collapse metrics.

    Raises:
        UserError: timm does not know the encoder.
    """
    with torch.device("meta"):  # shapes without memory
        method = build_method(config.method)
    saved = [value for value in method.state_dict().values() if isinstance(value, Tensor)]
    trained = [parameter.numel() for parameter in method.parameters() if parameter.requires_grad]
    moments, counters = config.optim.moment_tensors, config.optim.step_counters
    vectors = HEALTH_VECTORS * (sum(features + 2 * vectors for features, vectors in method.widths))
    weights = sum(value.nbytes for value in saved)
    optimizer = FLOAT_BYTES * (moments * sum(trained) + counters * len(trained))
    tensors = len(saved) + (moments + counters) * len(trained)
    return weights + optimizer + tensors * BYTES_PER_TENSOR + ranks * (FLOAT_BYTES * vectors + BYTES_PER_FILE) + BYTES_PER_FILE
