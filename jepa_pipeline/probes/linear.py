"""The linear probe: multinomial logistic regression on standardized features.

The loss is convex, so that there is no learning rate, no schedule and no luck in it: L-BFGS goes from the strongest weight decay
to the weakest, each head starting at the last one's optimum. Feature kind and weight decay are chosen on a held-out share of the
training set; the chosen head is then fitted on to the whole of it and sees the test set once.
"""

from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.section import Section
from jepa_pipeline.probes.features import Kinds, compute_device

ROWS = 65536
"""Samples whose logits are in memory at once."""

DEAD = 1e-6
"""Standard deviation below which a dimension carries rounding errors only."""


class Trial(Section):
    """A head of the grid and its accuracy on the held-out share of the training set."""

    features: str
    weight_decay: float
    selection_top1: float


class LinearResult(NamedTuple):
    """The chosen head's count of right answers on the test set, and all heads it was chosen from."""

    correct: int
    chosen: Trial
    trials: list[Trial]


def linear_probe(
    train: Kinds,
    train_labels: Int[Tensor, "S"],
    test: Kinds,
    test_labels: Int[Tensor, "Q"],
    classes: int,
    config: ProbeConfig,
) -> LinearResult:
    """Choose, refit and test.

    Raises:
        UserError: every class has a single training sample, so that none can be held out.
    """
    check_pairs(train_labels)
    held = held_out(train_labels, classes, config.selection_share, config.seed)
    order = held.long().argsort(stable=True)
    fitted = [
        pair
        for kind, vectors in train.items()
        for pair in try_decays(kind, vectors[order], train_labels[order], int((~held).sum()), classes, config)
    ]
    chosen, head = max(fitted, key=lambda pair: pair[0].selection_top1)
    vectors, mean, scale = standardize(train[chosen.features])
    fit(head, vectors, train_labels.to(vectors.device), chosen.weight_decay, config.iterations)
    unseen = (test[chosen.features].to(vectors.device) - mean) / scale
    return LinearResult(count_correct(head, unseen, test_labels), chosen, [trial for trial, _ in fitted])


def try_decays(
    kind: str, vectors: Float[Tensor, "S D"], labels: Int[Tensor, "S"], seen: int, classes: int, config: ProbeConfig
) -> list[tuple[Trial, nn.Linear]]:
    """Fit a head per weight decay on the first `seen` samples and judge it on the rest."""
    vectors, _, _ = standardize(vectors)
    labels = labels.to(vectors.device)
    head = new_head(vectors.shape[1], classes)
    fitted = []
    for decay in sorted(config.weight_decay, reverse=True):
        fit(head, vectors[:seen], labels[:seen], decay, config.iterations)
        right = count_correct(head, vectors[seen:], labels[seen:])
        trial = Trial(features=kind, weight_decay=decay, selection_top1=right / (len(labels) - seen))
        fitted.append((trial, deepcopy(head)))
    return fitted


def check_pairs(labels: Int[Tensor, "S"]) -> None:
    """Refuse training samples of which none can be held out, for every class has a single one."""
    if labels.unique().numel() == len(labels):
        raise UserError(
            f"{len(labels)} training samples are one per class at most: linear and attentive probes need two of some class, "
            "so add samples, or choose protocols=[knn]"
        )


def held_out(labels: Int[Tensor, "S"], classes: int, share: float, seed: int) -> Bool[Tensor, "S"]:
    """Which samples are held out: the same share of every class that has two samples or more, at least one."""
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
    """The vectors on the device with mean 0 and standard deviation 1 in each dimension, and what that took."""
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
    """Minimize mean cross-entropy + decay / 2 * squared weights (the bias is free), from where the head stands."""
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=iterations, tolerance_grad=1e-5, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def loss() -> Float[Tensor, ""]:
        optimizer.zero_grad()
        total = decay / 2 * head.weight.square().sum()
        total.backward()
        total = total.detach()
        for rows, answers in zip(vectors.split(ROWS), labels.split(ROWS), strict=True):
            part = F.cross_entropy(head(rows), answers, reduction="sum") / len(labels)
            part.backward()
            total += part.detach()
        return total

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]  # torch types the closure's value as float


@torch.inference_mode()
def count_correct(head: nn.Linear, vectors: Float[Tensor, "S D"], labels: Int[Tensor, "S"]) -> int:
    return sum(
        int((head(rows).argmax(1).cpu() == right.cpu()).sum())
        for rows, right in zip(vectors.split(ROWS), labels.split(ROWS), strict=True)
    )
