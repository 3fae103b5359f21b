"""The interface of a method to its training loop."""

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor, nn

from jepa_pipeline.batch import Batch, Output
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.custom import class_path
from jepa_pipeline.models.interface import BaseEncoder

ExportKind = Literal["target", "online", "mixed"]


class Method(nn.Module, ABC):
    """A network that returns the losses of a batch, and names the encoder to export."""

    encoder: BaseEncoder
    """The encoder that is trained."""
    embedding_width: int
    """Width of the targets and predictions in the output."""
    export_kind: ExportKind = "online"
    """The encoder to export: an average of the trained one, or itself; mixed: levels of a stack differ."""
    predicts_targets = False
    """True if the output's predictions come from a predictor of its targets, so that their R2 means something."""

    @abstractmethod
    def forward(self, batch: Batch, step: int, seed: int) -> Output:
        """Return the losses of a batch of normalized views.

        Args:
            batch: this process's part of the global batch.
            step: optimizer steps before this batch.
            seed: seed of everything that is sampled alike on all ranks in this step.
        """

    @property
    def encoder_to_export(self) -> BaseEncoder:
        """Return the encoder to save, probe and export."""
        return self.encoder

    def encoders_by_level(self) -> list[list[BaseEncoder]]:
        """Return the encoders of each level, from the pixels up: the one that is trained, then its average if there is one."""
        return [[module for module in self.modules() if isinstance(module, BaseEncoder)]]

    @property
    def widths(self) -> list[tuple[int, int]]:
        """Return the width of the features, and of the targets and predictions, for each level of the output."""
        return [(self.encoder_to_export.width, self.embedding_width)]

    def networks(self) -> list[nn.Module]:
        """Return the networks to compile and shard one by one; each is called only through its own forward."""
        return [*self.children()]

    def after_optimizer_step(self, step: int, schedule_steps: int) -> None:
        """Update what no optimizer updates, such as EMA weights.

        Args:
            step: optimizer steps so far, this one included.
            schedule_steps: length of the momentum schedule in steps.
        """


def check_output(method: Method, output: object) -> None:
    """Raise UserError unless a method returns what the training loop reads."""
    name = class_path(type(method))
    if not isinstance(output, Output):
        raise UserError(f"method: {name}.forward returns {type(output).__name__}: return jepa_pipeline.Output(losses, ...)")
    wrong = [key for key, loss in output.losses.items() if not isinstance(loss, Tensor) or loss.ndim]
    if wrong or not output.losses:
        what = f"losses[{wrong[0]!r}], which is no tensor with one value" if wrong else "no losses"
        raise UserError(f"method: {name}.forward returns {what}: return the mean of each term by its name")
    (features, embeddings), *_ = method.widths
    for part, width in (("features", features), ("targets", embeddings), ("predictions", embeddings)):
        found = getattr(output, part)
        if not isinstance(found, Tensor) or found.ndim != 2 or found.shape[1] != width:
            shape = [*found.shape] if isinstance(found, Tensor) else type(found).__name__
            raise UserError(
                f"method: {name}.forward returns {part} of {shape}, but vectors of width {width} are measured for collapse: return "
                f"[rows, {width}], detached"
            )
