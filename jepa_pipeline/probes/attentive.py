"""The attentive probe: a grid of heads on the same frozen tokens, one chosen on held-out training samples and tested once.

All heads begin with the same weights and see the same batches, so that they differ in learning rate and weight decay alone. Each
keeps the weights it was chosen by. Samples are shown in training as they are in a test, but for the number of views: neither
crops nor clips are random.
"""

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import product
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from rich.progress import track
from torch import Tensor, nn

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.probe import AttentiveConfig, ProbeConfig
from jepa_pipeline.config.section import Section
from jepa_pipeline.models.build import AnyEncoder
from jepa_pipeline.probes.features import autocast, compute_device
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
    train: Tokens, labels: Int[Tensor, "S"], test: Tokens, classes: int, limit: int, config: ProbeConfig, title: str
) -> AttentiveResult:
    """Train, choose and test.

    Args:
        train: tokens of the training samples, in one view.
        labels: of the same.
        test: tokens of the test samples, in as many views as answers are to be averaged.
        classes: how many there are.
        limit: attention heads at most.
        config: the probe's.
        title: what the progress bar calls the training.

    Raises:
        UserError: every class has a single training sample, so that none can be held out.
    """
    held = held_out(labels, classes, config.selection_share, config.seed)
    if not held.any():
        raise UserError(f"{len(labels)} training samples are one per class at most: an attentive probe needs two of some class")
    settings, width = config.attentive, train.shape[-1]
    grid = list(product(settings.lr, settings.weight_decay))
    heads = new_heads(len(grid), width, classes, largest_divisor(width, limit), config)
    seen, unseen = numbers_of(~held), numbers_of(held)
    train_heads(heads, grid, train, seen, config, title)
    trials = [
        AttentiveTrial(lr=lr, weight_decay=decay, selection_top1=right / len(unseen))
        for (lr, decay), right in zip(grid, count_correct(heads, train, unseen, config), strict=True)
    ]
    chosen, head = max(zip(trials, heads, strict=True), key=lambda pair: pair[0].selection_top1)
    (correct,) = count_correct([head], test, list(range(test.shape[0])), config)
    return AttentiveResult(correct, chosen, trials)


def attention_heads(encoder: AnyEncoder, settings: AttentiveConfig) -> int:
    """How many are wanted."""
    if settings.heads is None and settings.form == "vjepa" and isinstance(encoder.config, EncoderConfig):
        return encoder.config.size.num_heads
    return settings.heads or HEADS


def new_heads(count: int, width: int, classes: int, attention_heads: int, config: ProbeConfig) -> list[AttentivePooler]:
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        head = AttentivePooler(width, classes, attention_heads, config.attentive.form)
    return [deepcopy(head).to(compute_device()) for _ in range(count)]


def numbers_of(chosen: Bool[Tensor, "S"]) -> list[int]:
    return chosen.nonzero().flatten().tolist()


def train_heads(
    heads: Sequence[AttentivePooler],
    grid: Sequence[tuple[float, float]],
    tokens: Tokens,
    numbers: Sequence[int],
    config: ProbeConfig,
    title: str,
) -> None:
    """Train each head with its learning rate and weight decay on the samples of these numbers, all in one pass over the tokens."""
    settings, device = config.attentive, compute_device()
    batches = list(shuffled_batches(numbers, settings, config.seed))
    groups = [group for head, pair in zip(heads, grid, strict=True) for group in parameter_groups(head, *pair, settings.form)]
    optimizer = torch.optim.AdamW(groups, fused=True)
    warmup = round(len(batches) * settings.warmup_epochs / settings.epochs)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, warmup, len(batches)))
    for shown, labels in track(tokens.batches(batches), title, len(batches)):
        for head in heads:
            with autocast(device, config.precision):
                loss = F.cross_entropy(head(shown[:, 0]), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), CLIP[settings.form])
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()


def shuffled_batches(numbers: Sequence[int], settings: AttentiveConfig, seed: int) -> Iterator[list[int]]:
    """Those of all epochs, in each of which every sample comes once; its last batch may be smaller."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.epochs):
        order = torch.tensor(numbers)[torch.randperm(len(numbers), generator=generator)]
        for batch in order.split(settings.batch_size):
            yield batch.tolist()


def parameter_groups(head: AttentivePooler, lr: float, decay: float, form: Literal["vjepa", "vjepa2"]) -> list[dict[str, Any]]:
    """For the optimiser. V-JEPA 2 decays biases and norms too."""
    whole = form == "vjepa2"
    matrices = [parameter for parameter in head.parameters() if whole or parameter.ndim > 1]
    vectors = [parameter for parameter in head.parameters() if not whole and parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return [{**group, "lr": lr} for group in groups if group["params"]]


def rate_factor(step: int, warmup: int, total: int) -> float:
    """Share of the peak rate: linear up to it, then a cosine that would be 0 one step after the last."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


@torch.no_grad()
def count_correct(heads: Sequence[AttentivePooler], tokens: Tokens, numbers: list[int], config: ProbeConfig) -> list[int]:
    """Right answers of each head on the samples of these numbers; a sample's answer is the mean of those on its views."""
    device, (_, views, _, _) = compute_device(), tokens.shape
    correct = torch.zeros(len(heads), dtype=torch.long)
    rows = max(1, config.attentive.batch_size // views)
    for shown, labels in tokens.batches([numbers[start : start + rows] for start in range(0, len(numbers), rows)]):
        for place, head in enumerate(heads):
            with autocast(device, config.precision):
                logits = head.eval()(shown.flatten(0, 1))
            answers = logits.float().softmax(1).unflatten(0, (-1, views)).mean(1).argmax(1)
            correct[place] += (answers == labels).sum().cpu()
    return correct.tolist()
