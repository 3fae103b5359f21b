"""The linear probe: multinomial logistic regression on standardized features.

The loss is convex, so it needs no learning rate and no schedule: L-BFGS fits heads from the strongest weight decay to the
weakest, each starting at the optimum of the one before. Feature kind and weight decay are chosen on a held-out share of the
training set; the chosen head is then fitted to the whole training set and tested once. scikit-learn's LogisticRegression
minimizes the same loss, but not on the GPU.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.probes.feature_extractors import FeatureSet
from jepa_pipeline.probes.features import compute_device
from jepa_pipeline.results.probe_report import LinearTrial

ROWS = 65536
"""Samples whose logits are in memory at once."""

DEAD = 1e-6
"""Standard deviation below which a dimension holds rounding errors only."""


class LinearResult(NamedTuple):
    """Correct test predictions of the chosen head, and all heads it was chosen from."""

    correct: int
    chosen: LinearTrial
    trials: list[LinearTrial]


def linear_probe(
    train: FeatureSet,
    train_labels: Int[Tensor, "S"],
    test: FeatureSet,
    test_labels: Int[Tensor, "Q"],
    classes: int,
    config: ProbeConfig,
    fitted: Callable[[int], object] = lambda heads: None,
) -> LinearResult:
    """Choose a head on held-out training samples, fit it to all of them, and test it; tell `fitted` of each head.

    Raises:
        UserError: every class has a single training sample, so none can be held out.
    """
    check_pairs(train_labels)
    held = held_out(train_labels, classes, config.selection_share, config.seed)
    order = held.long().argsort(stable=True)
    trials = [
        pair
        for kind, vectors in train.items()
        for pair in try_decays(kind, vectors[order], train_labels[order], int((~held).sum()), classes, config, fitted)
    ]
    chosen, head = max(trials, key=lambda pair: pair[0].selection_top1)
    vectors, mean, scale = standardize(train[chosen.features])
    fit(head, vectors, train_labels.to(vectors.device), chosen.weight_decay, config.iterations)
    fitted(1)
    test_vectors = (test[chosen.features].to(vectors.device) - mean) / scale
    return LinearResult(count_correct(head, test_vectors, test_labels), chosen, [trial for trial, _ in trials])


def count_heads(kinds: int, config: ProbeConfig) -> int:
    """Return how many heads are fitted for an encoder with this number of kinds of features."""
    return kinds * len(config.weight_decay) + 1


def try_decays(
    kind: str,
    vectors: Float[Tensor, "S D"],
    labels: Int[Tensor, "S"],
    count: int,
    classes: int,
    config: ProbeConfig,
    fitted: Callable[[int], object],
) -> list[tuple[LinearTrial, nn.Linear]]:
    """Return a head per weight decay, fitted to the first `count` samples, and its accuracy on the rest."""
    vectors, _, _ = standardize(vectors)
    labels = labels.to(vectors.device)
    head = new_head(vectors.shape[1], classes)
    trials = []
    for decay in sorted(config.weight_decay, reverse=True):
        fit(head, vectors[:count], labels[:count], decay, config.iterations)
        correct = count_correct(head, vectors[count:], labels[count:])
        fitted(1)
        trial = LinearTrial(features=kind, weight_decay=decay, selection_top1=correct / (len(labels) - count))
        trials.append((trial, deepcopy(head)))  # the next weight decay continues from this head
    return trials


def check_pairs(labels: Int[Tensor, "S"]) -> None:
    """Raise UserError if no training sample can be held out, because every class has a single one."""
    if labels.unique().numel() == len(labels):
        raise UserError(
            f"{len(labels)} training samples are one per class at most, but linear and attentive probes need two of some class: "
            "add samples, or set protocols=[knn]"
        )


def held_out(labels: Int[Tensor, "S"], classes: int, share: float, seed: int) -> Bool[Tensor, "S"]:
    """Return which samples are held out: the same share of every class with two samples or more, at least one."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    counts = labels.bincount(minlength=classes)
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(labels)) - starts[labels[by_class]]
    quota = (counts * share).round().clamp(min=1).minimum(counts - 1)
    held = torch.empty(len(labels), dtype=torch.bool)
    held[by_class] = rank < quota[labels[by_class]]
    return held


def standardize(vectors: Float[Tensor, "S D"]) -> tuple[Float[Tensor, "S D"], Float[Tensor, "D"], Float[Tensor, "D"]]:
    """Return the vectors on the device with mean 0 and standard deviation 1 per dimension, and their mean and scale before."""
    vectors = vectors.to(compute_device())
    std, mean = torch.std_mean(vectors, 0)
    scale = torch.where(std > DEAD, std, 1.0)
    return (vectors - mean).div_(scale), mean, scale


def new_head(width: int, classes: int) -> nn.Linear:
    head = nn.Linear(width, classes, device=compute_device())
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def fit(head: nn.Linear, vectors: Float[Tensor, "S D"], labels: Int[Tensor, "S"], decay: float, iterations: int) -> None:
    """Minimize mean cross-entropy + decay / 2 * squared weights (without the bias), starting from the head's present weights."""
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=iterations, tolerance_grad=1e-5, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def loss() -> Float[Tensor, ""]:
        optimizer.zero_grad()
        total = decay / 2 * head.weight.square().sum()
        total.backward()  # gradients accumulate over the parts, so that few logits are in memory at once
        total = total.detach()
        for rows, expected in zip(vectors.split(ROWS), labels.split(ROWS), strict=True):
            part = F.cross_entropy(head(rows), expected, reduction="sum") / len(labels)
            part.backward()
            total += part.detach()
        return total

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]  # torch types the closure's value as float


@torch.inference_mode()
def count_correct(head: nn.Linear, vectors: Float[Tensor, "S D"], labels: Int[Tensor, "S"]) -> int:
    return sum(
        int((head(rows).argmax(1).cpu() == expected.cpu()).sum())
        for rows, expected in zip(vectors.split(ROWS), labels.split(ROWS), strict=True)
    )
