"""The attentive probe: a grid of heads on the same frozen tokens, one chosen on held-out training samples and tested once.

The heads of an encoder start from the same weights and train on the same batches, so they differ in learning rate and weight decay
alone. The chosen head is tested as it is, without training it again on all training samples. Training samples are prepared like
test samples, but with one view: neither crops nor clips are random.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import product
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor, nn

from jepa_pipeline.config.encoder_card import AnyEncoderConfig
from jepa_pipeline.config.level import Level
from jepa_pipeline.config.networks import BackboneConfig
from jepa_pipeline.config.probe import AttentiveConfig, ProbeConfig
from jepa_pipeline.console import track
from jepa_pipeline.probes.features import autocast, compute_device
from jepa_pipeline.probes.linear import check_pairs, held_out
from jepa_pipeline.probes.pooler import AttentivePooler, largest_divisor
from jepa_pipeline.probes.tokens import Tokens
from jepa_pipeline.results.probe_report import AttentiveTrial

MAX_NORM = {"vjepa": 1.0, "vjepa2": math.inf}
"""Norm to which the gradient of each head is clipped."""
HEADS = 16
"""Attention heads of V-JEPA 2's probes, for all encoders."""

Heads = dict[str, list[AttentivePooler]]
"""By encoder, a head per pair of the grid."""


class AttentiveResult(NamedTuple):
    """Correct test predictions of the chosen head, and all heads it was chosen from."""

    correct: int
    chosen: AttentiveTrial
    trials: list[AttentiveTrial]


def attentive_probe(
    train: Tokens, labels: Int[Tensor, "S"], test: Tokens, classes: int, max_heads: Mapping[str, int], config: ProbeConfig
) -> dict[str, AttentiveResult]:
    """Train the heads, choose one per encoder and test it.

    Args:
        train: tokens of the training samples, in one view.
        labels: of the training samples.
        test: tokens of the test samples, whose predictions are averaged over their views.
        classes: number of classes.
        max_heads: attention heads at most, by encoder.
        config: of the probe.

    Raises:
        UserError: every class has a single training sample, so none can be held out.
    """
    check_pairs(labels)
    held = held_out(labels, classes, config.selection_share, config.seed)
    grid = list(product(config.attentive.lr, config.attentive.weight_decay))
    heads = {name: new_heads(len(grid), shape[-1], classes, max_heads[name], config) for name, shape in train.shapes.items()}
    fitted, selection = indices(~held), indices(held)
    train_heads(heads, grid, train, fitted, config)
    trials = {
        name: [
            AttentiveTrial(lr=lr, weight_decay=decay, selection_top1=correct / len(selection))
            for (lr, decay), correct in zip(grid, counts, strict=True)
        ]
        for name, counts in count_correct(heads, train, selection, config).items()
    }
    best = {name: max(range(len(grid)), key=lambda index: tried[index].selection_top1) for name, tried in trials.items()}
    samples = next(iter(test.shapes.values()))[0]
    correct = count_correct({name: [heads[name][index]] for name, index in best.items()}, test, list(range(samples)), config)
    return {name: AttentiveResult(correct[name][0], trials[name][index], trials[name]) for name, index in best.items()}


def max_heads(encoder: AnyEncoderConfig, settings: AttentiveConfig, level: Level | None = None) -> int:
    """Return the largest number of attention heads of a probe: that of the encoder for V-JEPA, else that of the settings.

    level: the level of a stack whose tokens are probed, default: the level that is read; for all levels, their largest number.
    """
    if settings.heads is not None or settings.form != "vjepa" or isinstance(encoder, BackboneConfig):
        return settings.heads or HEADS
    heads = [config.size.num_heads for config in encoder.levels]
    level = level or getattr(encoder, "level", 1)  # a single encoder has one level
    return heads[level - 1] if isinstance(level, int) else max(heads)


def new_heads(count: int, width: int, classes: int, limit: int, config: ProbeConfig) -> list[AttentivePooler]:
    """Return heads with equal weights, with as many attention heads as divide the width."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        head = AttentivePooler(width, classes, largest_divisor(width, limit), config.attentive.form)
    return [deepcopy(head).to(compute_device()) for _ in range(count)]


def indices(chosen: Bool[Tensor, "S"]) -> list[int]:
    return chosen.nonzero().flatten().tolist()


def train_heads(
    heads: Heads, grid: Sequence[tuple[float, float]], tokens: Tokens, numbers: Sequence[int], config: ProbeConfig
) -> None:
    """Train the heads of every encoder, each with its learning rate and weight decay, on the samples with these numbers.

    All are trained on a batch before the next, so that tokens that are not cached are computed once per epoch.
    """
    settings, device = config.attentive, compute_device()
    batches = list(shuffled_batches(numbers, settings, config.seed))
    pairs = [pair for group in heads.values() for pair in zip(group, grid, strict=True)]
    optimizer = torch.optim.AdamW([group for pair in pairs for group in parameter_groups(*pair, settings.form)], fused=True)
    warmup = round(len(batches) * settings.warmup_epochs / settings.epochs)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, warmup, len(batches)))
    for batch_tokens, labels in track(tokens.batches(batches), "attentive heads", len(batches)):
        for name, group in heads.items():
            for head in group:
                with autocast(device, config.precision):
                    loss = F.cross_entropy(head(batch_tokens[name][:, 0]), labels)
                loss.backward()
                nn.utils.clip_grad_norm_(head.parameters(), MAX_NORM[settings.form])
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()


def shuffled_batches(numbers: Sequence[int], settings: AttentiveConfig, seed: int) -> Iterator[list[int]]:
    """Yield the batches of all epochs; each epoch has every sample once, and its last batch may be smaller."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.epochs):
        order = torch.tensor(numbers)[torch.randperm(len(numbers), generator=generator)]
        for batch in order.split(settings.batch_size):
            yield batch.tolist()


def parameter_groups(head: AttentivePooler, pair: tuple[float, float], form: Literal["vjepa", "vjepa2"]) -> list[dict[str, Any]]:
    """Return the optimizer's parameter groups of a head. pair: learning rate and weight decay. V-JEPA 2 decays vectors too."""
    lr, decay = pair
    decay_all = form == "vjepa2"
    decayed = [parameter for parameter in head.parameters() if decay_all or parameter.ndim > 1]
    others = [parameter for parameter in head.parameters() if not decay_all and parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return [{**group, "lr": lr} for group in groups if group["params"]]


def rate_factor(step: int, warmup: int, total: int) -> float:
    """Return the learning rate over its peak: a linear warmup, then a cosine that would be 0 one step after the last."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


@torch.no_grad()
def count_correct(heads: Heads, tokens: Tokens, numbers: list[int], config: ProbeConfig) -> dict[str, list[int]]:
    """Return the correct predictions of each head on the samples with these numbers, averaging probabilities over views."""
    device, views = compute_device(), next(iter(tokens.shapes.values()))[1]
    # on the device: fetching each count would wait for it
    correct = {name: torch.zeros(len(group), dtype=torch.long, device=device) for name, group in heads.items()}
    rows = max(1, config.attentive.batch_size // views)
    for batch_tokens, labels in tokens.batches([numbers[start : start + rows] for start in range(0, len(numbers), rows)]):
        for name, group in heads.items():
            for index, head in enumerate(group):
                with autocast(device, config.precision):
                    logits = head.eval()(batch_tokens[name].flatten(0, 1))
                predicted = logits.float().softmax(1).unflatten(0, (-1, views)).mean(1).argmax(1)
                correct[name][index] += (predicted == labels).sum()
    return {name: counts.tolist() for name, counts in correct.items()}
