"""The attentive probe: a grid of heads on the same frozen tokens, one chosen on held-out training samples and tested once.

All heads begin with the same weights and see the same batches, so that they differ in learning rate and weight decay alone. Each
keeps the weights it was chosen by. Samples are shown in training as they are in a test, but for the number of views: neither
crops nor clips are random.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Int
from rich.progress import track
from torch import Tensor, nn

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.probe import AttentiveConfig, ProbeConfig
from jepa_pipeline.config.section import Section
from jepa_pipeline.data.clip_list import in_order
from jepa_pipeline.models.build import AnyEncoder
from jepa_pipeline.probes.features import Lens, compute_device
from jepa_pipeline.probes.linear import held_out
from jepa_pipeline.probes.pooler import AttentivePooler, largest_divisor
from jepa_pipeline.probes.tokens import Tokens

CLIP = {"vjepa": 1.0, "vjepa2": math.inf}
"""Norm to which each head's gradient is clipped."""
HEADS = 16
"""Of V-JEPA 2's probes, whatever the encoder."""


class AttentiveTrial(Section):
    """A head of the grid and its accuracy on the held-out share of the training set."""

    lr: float
    weight_decay: float
    selection_top1: float


class AttentiveResult(NamedTuple):
    """The chosen head's count of right answers on the test set, and all heads it was chosen from."""

    correct: int
    chosen: AttentiveTrial
    trials: list[AttentiveTrial]


def attentive_probe(
    train: Tokens, labels: Int[Tensor, "S"], test: Tokens, classes: int, heads: int, config: ProbeConfig, title: str
) -> AttentiveResult:
    """Train, choose and test.

    Args:
        train: tokens of the training samples.
        labels: of the same.
        test: tokens of the test samples.
        classes: how many there are.
        heads: attention heads.
        config: the probe's.
        title: what the progress bars call it.

    Raises:
        UserError: every class has a single training sample, so that none can be held out.
    """
    held = held_out(labels, classes, config.selection_share, config.seed)
    if not held.any():
        raise UserError(f"{len(labels)} training samples are one per class at most: an attentive probe needs two of some class")
    settings, lens = config.attentive, ...
