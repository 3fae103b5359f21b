"""What is remembered on the device between two lines of the log, so that the step never waits for the host."""

from math import gcd
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa_pipeline.batch import Vectors
from jepa_pipeline.distributed import mean_over_ranks

GOLDEN = (1 + 5**0.5) / 2


class Means(nn.Module):
    """Running means of named scalars, saved with the module so that a continued run logs the same numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: dict[str, Float[Tensor, ""]]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums[name].to(value) + value if name in self.sums else value.clone()
            self.counts[name] = self.counts.get(name, 0) + 1

    def pop(self) -> dict[str, float]:
        """The means so far, over all processes; waits for the device, and starts again."""
        means = mean_over_ranks({name: total.double() / self.counts[name] for name, total in self.sums.items()})
        self.sums, self.counts = {}, {}
        return means

    def get_extra_state(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])


class RingBuffer(nn.Module):
    """The newest vectors of a stream, as a buffer of the module so that it moves and is saved with it."""

    vectors: Tensor
    written: Tensor

    def __init__(self, capacity: int, width: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(capacity, width))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def add(self, vectors: Float[Tensor, "S D"], count: int) -> None:
        """Keep `count` of the vectors, spread over all of them.

        The stride has no divisor in common with their number, and the start moves on. An even spacing would meet the same token of
        every image, for their number is a multiple of the batch.
        """
        capacity, available = len(self.vectors), len(vectors)
        count = min(count, available, capacity)
        places = torch.arange(count, device=self.vectors.device)
        chosen = vectors[(places * coprime_near(available / GOLDEN, available) + self.written) % available]
        self.vectors[(self.written + places) % capacity] = chosen.to(self.vectors)
        self.written += count

    def filled(self) -> Float[Tensor, "S D"]:
        """The vectors kept so far; waits for the device."""
        return self.vectors[: min(int(self.written), len(self.vectors))]


class Recent(nn.Module):
    """The newest features, targets and predictions of one level."""

    def __init__(self, capacity: int, feature_width: int, vector_width: int) -> None:
        super().__init__()
        self.features = RingBuffer(capacity, feature_width)
        self.targets = RingBuffer(capacity, vector_width)
        self.predictions = RingBuffer(capacity, vector_width)

    def add(self, vectors: Vectors, count: int) -> None:
        """Keep so many of each; see RingBuffer."""
        for buffer, new in zip(self.children(), vectors, strict=True):
            buffer.add(new, count)  # pyright: ignore[reportCallIssue]

    def filled(self) -> Vectors:
        """What is kept; waits for the device."""
        return Vectors(self.features.filled(), self.targets.filled(), self.predictions.filled())


def coprime_near(start: float, number: int) -> int:
    """The first whole number from `start` up that has no divisor in common with `number`."""
    return next(n for n in range(int(start), 2 * number + 2) if gcd(n, number) == 1)
