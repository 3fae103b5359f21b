"""The frequencies of sine-cosine and rotary positions."""

import torch
from jaxtyping import Float64
from torch import Tensor

BASE = 10_000.0


def position_frequencies(dim: int, device: torch.device | None = None) -> Float64[Tensor, " {dim}//2"]:
    """Return dim / 2 frequencies from 1 down to almost 1 / 10,000 (Vaswani et al. 2017, section 3.5)."""
    return BASE ** -(torch.arange(dim // 2, dtype=torch.float64, device=device) / (dim / 2))
