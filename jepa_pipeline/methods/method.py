"""What every method is to the room that trains it."""

from abc import ABC, abstractmethod
from typing import Literal

from torch import nn

from jepa_pipeline.batch import Batch, Output
from jepa_pipeline.models.build import AnyEncoder

Kept = Literal["target", "online", "mixed"]


class Method(nn.Module, ABC):
    """A network that turns a batch into losses and says which encoder it is all for."""

    step = 0
    """Optimizer steps before this batch, set by whoever trains."""
    step_key = 0
    """The seed of what a method draws in this step alike on all ranks, set likewise."""

    kept: Kept = "online"
    """What kind of encoder is kept: a slow average of the one that is trained, or that itself; of a stack, at each level either."""

    @abstractmethod
    def forward(self, batch: Batch) -> Output:
        """Losses of a batch of normalized views."""

    @property
    @abstractmethod
    def kept_encoder(self) -> AnyEncoder:
        """The encoder to keep, probe and export."""

    @property
    @abstractmethod
    def vector_width(self) -> int:
        """Width of the targets and predictions that forward gives for the health meters."""

    @property
    def widths(self) -> list[tuple[int, int]]:
        """Of the features, and of the targets and predictions, that forward gives for the health meters; a pair a level."""
        return [(self.kept_encoder.width, self.vector_width)]

    def networks(self) -> list[nn.Module]:
        """The networks, each of which is called through its own forward; they are spread over devices one by one."""
        return [*self.children()]

    def after_step(self, step: int, schedule_steps: int) -> None:
        """Called after every optimizer step, counted from 1, of the steps the schedules are planned for."""
