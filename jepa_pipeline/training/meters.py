"""What is remembered on the device between two lines of the log, so that the step never waits for the host."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Means:
    """Running means of named scalars."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: dict[str, Float[Tensor, ""]]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.counts[name] = self.counts.get(name, 0) + 1

    def pop(self) -> dict[str, float]:
        """The means so far; waits for the device, and starts again."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


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
        """Keep `count` of the vectors, evenly spaced among them."""
        capacity, device = len(self.vectors), self.vectors.device
        count = min(count, len(vectors), capacity)
        chosen = vectors[torch.arange(count, device=device) * len(vectors) // count]
        self.vectors[(self.written + torch.arange(count, device=device)) % capacity] = chosen.to(self.vectors)
        self.written += count

    def filled(self) -> Float[Tensor, "S D"]:
        """The vectors kept so far; waits for the device."""
        return self.vectors[: min(int(self.written), len(self.vectors))]
