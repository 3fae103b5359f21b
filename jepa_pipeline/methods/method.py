"""What every method is to the room that trains it."""

from abc import ABC, abstractmethod

from torch import nn

from jepa_pipeline.batch import Batch, Output
from jepa_pipeline.models.encoder import Encoder


class Method(nn.Module, ABC):
    """A network that turns a batch into losses and says which encoder it is all for."""

    @abstractmethod
    def forward(self, batch: Batch) -> Output:
        """Losses of a batch of normalised views."""

    @property
    @abstractmethod
    def kept_encoder(self) -> Encoder:
        """The encoder to keep, probe and export: the EMA target where there is one."""

    @abstractmethod
    def update_target(self, step: int, schedule_steps: int) -> None:
        """Called after every optimiser step, counted from 1, of the steps the schedules are planned for."""
