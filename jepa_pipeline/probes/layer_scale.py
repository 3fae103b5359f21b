"""Networks whose blocks are multiplied by learned factors that start near zero (LayerScale; Touvron et al. 2021)."""

import re

from jepa_pipeline.models.interface import BaseEncoder

SMALL = 0.1
"""Factors from here on leave an untrained block its effect; published networks start at 1e-6 to 1e-4, or at 1."""


def layer_scale(untrained: BaseEncoder) -> float | None:
    """Return the largest of the factors of an untrained network; None: it has none, or they are not small."""
    state = untrained.timm_module().state_dict()
    factors = [tensor.abs().max().item() for name, tensor in state.items() if re.search(r"(?:^|\.)gamma_?\d?$", name)]
    return max(factors) if factors and max(factors) < SMALL else None
