"""The attentive probe: a grid of heads on the same frozen tokens, one chosen on held-out training samples and tested once.

The heads of an encoder begin with the same weights and see the same batches, so that they differ in learning rate and weight decay
alone. The one that is chosen is tested as it was chosen, not fitted again to all training samples. Samples are shown in training as
they are in a test, but in one view: neither their crops nor their clips are random.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import product
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from rich.progress import track
from torch import Tensor, nn

from jepa_pipeline.config.level import Level
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.probe import AttentiveConfig, ProbeConfig
from jepa_pipeline.config.section import Section
from jepa_pipeline.config.stack import StackConfig
from jepa_pipeline.probes.features import autocast, compute_device
from jepa_pipeline.probes.linear import check_pairs, held_out
from jepa_pipeline.probes.pooler import AttentivePooler, largest_divisor
from jepa_pipeline.probes.tokens import Tokens

CLIP = {"vjepa": 1.0, "vjepa2": math.inf}
"""Norm to which each head's gradient is clipped."""
HEADS = 16
"""Of V-JEPA 2's probes, whatever the encoder."""

Heads = dict[str, list[AttentivePooler]]
"""By encoder, one for each pair of the grid."""


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
    train: Tokens, labels: Int[Tensor, "S"], test: Tokens, classes: int, limits: Mapping[str, int], config: ProbeConfig
) -> dict[str, AttentiveResult]:
    """Train, choose and test, by encoder.

    Args:
        train: tokens of the training samples, in one view.
        labels: of the same.
        test: tokens of the test samples, in as many views as answers are to be averaged.
        classes: how many there are.
        limits: attention heads at most, by encoder.
        config: the probe's.

    Raises:
        UserError: every class has a single training sample, so that none can be held out.
    """
    check_pairs(labels)
    held = held_out(labels, classes, config.selection_share, config.seed)
    grid = list(product(config.attentive.lr, config.attentive.weight_decay))
    heads = {name: new_heads(len(grid), shape[-1], classes, limits[name], config) for name, shape in train.shapes.items()}
    seen, unseen = numbers_of(~held), numbers_of(held)
    train_heads(heads, grid, train, seen, config)
    trials = {
        name: [
            AttentiveTrial(lr=lr, weight_decay=decay, selection_top1=right / len(unseen))
            for (lr, decay), right in zip(grid, counts, strict=True)
        ]
        for name, counts in count_correct(heads, train, unseen, config).items()
    }
    best = {name: max(range(len(grid)), key=lambda place: found[place].selection_top1) for name, found in trials.items()}
    correct = count_correct({name: [heads[name][place]] for name, place in best.items()}, test, list(range(samples(test))), config)
    return {name: AttentiveResult(correct[name][0], trials[name][place], trials[name]) for name, place in best.items()}


def attention_heads(encoder: EncoderConfig | BackboneConfig, settings: AttentiveConfig, level: Level | None = None) -> int:
    """How many are wanted.

    level: of a stack the one whose tokens they attend to, the one that is read unless given; of all, the one with the most counts.
    """
    if settings.heads is not None or settings.form != "vjepa" or not isinstance(encoder, EncoderConfig):
        return settings.heads or HEADS
    if not isinstance(encoder, StackConfig):
        return encoder.size.num_heads
    heads, read = [one.size.num_heads for one in encoder.levels], level or encoder.level
    return heads[read - 1] if isinstance(read, int) else max(heads)


def new_heads(count: int, width: int, classes: int, limit: int, config: ProbeConfig) -> list[AttentivePooler]:
    """Equal ones, with as many attention heads as divide the width."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        head = AttentivePooler(width, classes, largest_divisor(width, limit), config.attentive.form)
    return [deepcopy(head).to(compute_device()) for _ in range(count)]


def numbers_of(chosen: Bool[Tensor, "S"]) -> list[int]:
    return chosen.nonzero().flatten().tolist()


def samples(tokens: Tokens) -> int:
    return next(iter(tokens.shapes.values()))[0]


def train_heads(
    heads: Heads, grid: Sequence[tuple[float, float]], tokens: Tokens, numbers: Sequence[int], config: ProbeConfig
) -> None:
    """Train the heads of every encoder, each with its learning rate and weight decay, on the samples of these numbers.

    All see a batch before the next one comes, so that tokens that are not kept are computed once an epoch for all of them.
    """
    settings, device = config.attentive, compute_device()
    batches = list(shuffled_batches(numbers, settings, config.seed))
    pairs = [pair for same in heads.values() for pair in zip(same, grid, strict=True)]
    optimizer = torch.optim.AdamW([group for pair in pairs for group in parameter_groups(*pair, settings.form)], fused=True)
    warmup = round(len(batches) * settings.warmup_epochs / settings.epochs)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, warmup, len(batches)))
    for shown, labels in track(tokens.batches(batches), "attentive heads", len(batches)):
        for name, same in heads.items():
            for head in same:
                with autocast(device, config.precision):
                    loss = F.cross_entropy(head(shown[name][:, 0]), labels)
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


def parameter_groups(head: AttentivePooler, pair: tuple[float, float], form: Literal["vjepa", "vjepa2"]) -> list[dict[str, Any]]:
    """For the optimizer, by learning rate and weight decay. V-JEPA 2 decays biases and norms too."""
    lr, decay = pair
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
def count_correct(heads: Heads, tokens: Tokens, numbers: list[int], config: ProbeConfig) -> dict[str, list[int]]:
    """Right answers of each head on the samples of these numbers; a sample's answer is the mean of those on its views."""
    device, views = compute_device(), next(iter(tokens.shapes.values()))[1]
    # stay on the device: fetching each count would wait for it
    correct = {name: torch.zeros(len(same), dtype=torch.long, device=device) for name, same in heads.items()}
    rows = max(1, config.attentive.batch_size // views)
    for shown, labels in tokens.batches([numbers[start : start + rows] for start in range(0, len(numbers), rows)]):
        for name, same in heads.items():
            for place, head in enumerate(same):
                with autocast(device, config.precision):
                    logits = head.eval()(shown[name].flatten(0, 1))
                answers = logits.float().softmax(1).unflatten(0, (-1, views)).mean(1).argmax(1)
                correct[name][place] += (answers == labels).sum()
    return {name: counts.tolist() for name, counts in correct.items()}
