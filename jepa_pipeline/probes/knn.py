"""k-nearest-neighbor classification: exact, by cosine similarity, one vote per neighbor."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.probes.features import compute_device

SIMILARITIES = 2**25
"""Similarities in memory at once: 128 MiB in fp32."""


@torch.inference_mode()
def knn_probe(
    train: Float[Tensor, "S D"],
    train_labels: Int[Tensor, "S"],
    test: Float[Tensor, "Q D"],
    test_labels: Int[Tensor, "Q"],
    classes: int,
    ks: Sequence[int],
) -> dict[int, int]:
    """Return the number of correct predictions on the test set for each k, from one search.

    Raises:
        UserError: there are fewer training samples than neighbors.
    """
    check_neighbors(ks, len(train))
    device = compute_device()
    keys, labels = F.normalize(train.to(device), dim=1), train_labels.to(device)
    correct = dict.fromkeys(ks, 0)
    rows = max(1, SIMILARITIES // len(train))
    for queries, expected in zip(test.split(rows), test_labels.split(rows), strict=True):
        similarity, index = (F.normalize(queries.to(device), dim=1) @ keys.T).topk(max(ks), dim=1)
        for k in correct:
            predicted = vote(labels[index[:, :k]], similarity[:, :k], classes)
            correct[k] += int((predicted.cpu() == expected.cpu()).sum())
    return correct


def check_neighbors(ks: Sequence[int], samples: int) -> None:
    """Raise UserError if there are fewer training samples than neighbors."""
    if max(ks) > samples:
        raise UserError(f"k is {max(ks)} but there are {samples} training samples: give k no larger than that")


def vote(labels: Int[Tensor, "Q K"], similarity: Float[Tensor, "Q K"], classes: int) -> Int[Tensor, "Q"]:
    """Return the class of most neighbors; of equal counts, that with the larger sum of similarities."""
    # k similarities sum to at most k in size, so a vote of 2k + 1 outweighs any difference of their sums
    ballots = similarity.double() + (2 * labels.shape[1] + 1)
    return ballots.new_zeros(len(labels), classes).scatter_add_(1, labels, ballots).argmax(1)
