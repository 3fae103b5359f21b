"""How large a checkpoint will be, by building the networks without their numbers."""

import torch
from torch import Tensor

from jepa_pipeline.config.optim import AdamWConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.methods.build import build_method

FLOAT = 4
PER_TENSOR, PER_FILE = 1800, 3000
"""Bytes beside the numbers: for a tensor's name, kind and place, and for what is small and plain."""


def checkpoint_bytes(config: RunConfig, ranks: int = 1) -> int:
    """Bytes of a checkpoint: weights, target, buffers, the optimizer's moments, and of every process the vectors on which health is
    measured.

    Raises:
        UserError: timm does not know the encoder.
    """
    with torch.device("meta"):
        method = build_method(config.method)
    kept = [value for value in method.state_dict().values() if isinstance(value, Tensor)]
    trained = [parameter.numel() for parameter in method.parameters() if parameter.requires_grad]
    moments, counters = (2, 1) if isinstance(config.optim, AdamWConfig) else (1, 0)
    vectors = config.health.vectors * (sum(features + 2 * vectors for features, vectors in method.widths))
    weights = sum(value.nbytes for value in kept)
    optimizer = FLOAT * (moments * sum(trained) + counters * len(trained))
    tensors = len(kept) + (moments + counters) * len(trained)
    return weights + optimizer + tensors * PER_TENSOR + ranks * (FLOAT * vectors + PER_FILE) + PER_FILE
