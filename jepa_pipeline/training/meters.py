"""Meters that stay on the device between two log lines, so that a step never waits for the host."""

from math import gcd
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa_pipeline.batch import Vectors
from jepa_pipeline.distributed import mean_over_ranks

GOLDEN_RATIO = (1 + 5**0.5) / 2


class AverageMeters(nn.Module):
    """Averages of named scalars, saved with the module so that a resumed run logs the same numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def update(self, values: dict[str, Float[Tensor, ""]]) -> None:
        for name, value in values.items():
            # .to(value): sums loaded from a checkpoint lie on the CPU; clone: the caller may reuse the tensor
            self.sums[name] = self.sums[name].to(value) + value if name in self.sums else value.clone()
            self.counts[name] = self.counts.get(name, 0) + 1

    def compute_and_reset(self) -> dict[str, float]:
        """Return the averages over all steps and ranks since the last call. Waits for the device."""
        averages = mean_over_ranks({name: total.double() / self.counts[name] for name, total in self.sums.items()})
        self.sums, self.counts = {}, {}
        return averages

    def get_extra_state(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])


class RingBuffer(nn.Module):
    """The newest vectors of a stream, as a buffer of the module so that they move to the device and are saved with it."""

    vectors: Tensor
    written: Tensor

    def __init__(self, capacity: int, width: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(capacity, width))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def add(self, vectors: Float[Tensor, "S D"], count: int) -> None:
        """Store `count` of the vectors, spread over all of them."""
        capacity, available = len(self.vectors), len(vectors)
        count = min(count, available, capacity)
        indices = torch.arange(count, device=self.vectors.device)
        # S is a multiple of the batch size, so an even spacing would select the same token of every image at every step. A
        # stride coprime to S and a moving start visit every position of the grid.
        chosen = vectors[(indices * next_coprime(available / GOLDEN_RATIO, available) + self.written) % available]
        self.vectors[(self.written + indices) % capacity] = chosen.to(self.vectors)
        self.written += count

    def contents(self) -> Float[Tensor, "S D"]:
        """Return the stored vectors. Waits for the device."""
        return self.vectors[: min(int(self.written), len(self.vectors))]


class RecentVectors(nn.Module):
    """The newest features, targets and predictions of one level."""

    def __init__(self, capacity: int, feature_width: int, embedding_width: int) -> None:
        super().__init__()
        self.features = RingBuffer(capacity, feature_width)
        self.targets = RingBuffer(capacity, embedding_width)
        self.predictions = RingBuffer(capacity, embedding_width)

    def add(self, vectors: Vectors, count: int) -> None:
        """Store `count` of each kind."""
        self.features.add(vectors.features, count)
        self.targets.add(vectors.targets, count)
        self.predictions.add(vectors.predictions, count)

    def contents(self) -> Vectors:
        """Return the stored vectors. Waits for the device."""
        return Vectors(self.features.contents(), self.targets.contents(), self.predictions.contents())


def next_coprime(start: float, number: int) -> int:
    """Return the smallest integer from `start` up that is coprime to `number`."""
    return next(n for n in range(int(start), 2 * number + 2) if gcd(n, number) == 1)
