"""Loading of all samples of a data set for frozen encoders."""

from functools import cache
from typing import NamedTuple

from torch.utils.data import DataLoader, Dataset

from jepa_pipeline.batch import Batch
from jepa_pipeline.console import note
from jepa_pipeline.data.worker_pool import count_workers
from jepa_pipeline.data.workers import build_loader

TIMEOUT_S = 1800.0
"""Seconds without a batch after which a probe ends, as a run does after trainer.stuck_s."""


class EvalLoader(NamedTuple):
    """A data set of `samples` samples, and how it is loaded.

    The views of its batches are in order of segments, `views` of each. first: number of sample 0 for the extractors, so that
    samples of two sets have different numbers.
    """

    dataset: Dataset[Batch]
    samples: int
    views: int
    batch_size: int
    workers: int
    first: int = 0

    def batches(self) -> list[list[int]]:
        """Return the numbers of all samples in order, in batches; the last may be smaller."""
        numbers, size = range(self.samples), self.batch_size
        return [list(numbers[start : start + size]) for start in range(0, self.samples, size)]

    def load(self, batches: list[list[int]]) -> DataLoader[Batch]:
        """Return a loader of the batches with these numbers."""
        return build_loader(self.dataset, batches, count_workers(self.workers, 1, note_once), timeout_s=TIMEOUT_S)


@cache
def note_once(text: str) -> None:
    """Print a note the first time."""
    note(text)
