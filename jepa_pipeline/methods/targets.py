"""The target encoder of a JEPA: an average of the trained encoder, or that encoder with or without gradient.

These are plain objects rather than modules. A module would register the trained encoder a second time, under another name, and
the state would contain it twice. The JEPA registers only the EMA copy; every other target is the online encoder itself.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from jepa_pipeline.methods.method import ExportKind
from jepa_pipeline.models.ema import copy_frozen, update_ema
from jepa_pipeline.models.interface import TokenEncoder


class Target:
    """The network that computes the target tokens."""

    has_gradient: bool
    """True if the target is trained too, and so regularized."""
    export_kind: ExportKind = "online"

    def __init__(self, encoder: TokenEncoder) -> None:
        self.encoder = encoder

    def __call__(self, pixels: Float[Tensor, "B C *T H W"]) -> Float[Tensor, "B N D"]:
        """Return the tokens of the whole input."""
        return self.encoder(pixels)

    def update(self, step: int, schedule_steps: int) -> None:
        """Do nothing: the optimizer step has updated the encoder."""


class SharedTarget(Target):
    """The trained encoder with its gradient; only a regularizer prevents collapse (LeCun 2022, section 4.5)."""

    has_gradient = True


class StopGradientTarget(Target):
    """The trained encoder without its gradient, as in SimSiam."""

    has_gradient = False

    @torch.no_grad()
    def __call__(self, pixels: Float[Tensor, "B C *T H W"]) -> Float[Tensor, "B N D"]:
        return self.encoder(pixels)


class EMATarget(StopGradientTarget):
    """An exponential moving average of the trained encoder, as in BYOL, I-JEPA and V-JEPA.

    Args:
        online: the trained encoder.
        momentum: momentum at the first step and at the end of the schedule.
    """

    export_kind = "target"

    def __init__(self, online: TokenEncoder, momentum: tuple[float, float]) -> None:
        super().__init__(copy_frozen(online))
        self.online, self.momentum = online, momentum

    def update(self, step: int, schedule_steps: int) -> None:
        """Move the average toward the trained encoder, after optimizer step number `step`, counted from 1."""
        update_ema(self.encoder, self.online, linear_momentum(step, schedule_steps, *self.momentum))


def linear_momentum(step: int, steps: int, start: float, end: float) -> float:
    """Return the momentum after optimizer step number `step`, counted from 1: m(n) = start + (end - start) (n - 1) / steps.

    It stays at `end` from step `steps` + 1 on; steps is optim.schedule_stretch times the optimizer steps of the run.
    """
    return start + (end - start) * min((step - 1) / steps, 1.0)
