"""All samples of a data set, on their way to frozen encoders."""

from typing import NamedTuple

from torch.utils.data import DataLoader, Dataset

from jepa_pipeline.batch import Batch
from jepa_pipeline.data.loader import loader


class Feed(NamedTuple):
    """A data set by numbers 0 to samples - 1.

    A batch of it holds tensors in order of segments, `views` of each. samples_per_pass: how many an encoder is given at once, at
    most; workers: decoding processes; first: what readers call sample 0, so that those of two sets have numbers of their own.
    """

    dataset: Dataset[Batch]
    samples: int
    views: int
    samples_per_pass: int
    workers: int
    first: int = 0

    def passes(self) -> list[list[int]]:
        """The numbers of all samples in order, as many as are given at once; the last may be fewer."""
        numbers, rows = range(self.samples), self.samples_per_pass
        return [list(numbers[start : start + rows]) for start in range(0, self.samples, rows)]

    def load(self, passes: list[list[int]]) -> DataLoader[Batch]:
        """The batches of these numbers."""
        return loader(self.dataset, passes, self.workers)
