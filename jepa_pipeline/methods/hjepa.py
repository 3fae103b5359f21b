"""A hierarchy of joint-embedding predictive architectures."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import nn

from jepa_pipeline.batch import Batch, Energy, Output, Vectors
from jepa_pipeline.config.hjepa import HJepaConfig
from jepa_pipeline.config.stack import StackConfig
from jepa_pipeline.methods.jepa import JEPA, concatenate_views
from jepa_pipeline.methods.level_inputs import LevelInputs
from jepa_pipeline.methods.method import Method
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.interface import BaseEncoder
from jepa_pipeline.models.stack import Stack
from jepa_pipeline.models.world_model import WorldModel


class HJEPA(Method):
    """H-JEPA (LeCun 2022, section 4.6): a stack of JEPAs, each on the representation of the level below.

    Higher levels are coarser in space and time, and predict further with less detail. What a level's task masks is masked on
    every level below as well: a masked level's context is computed from the patches under its visible tokens alone, and a
    forward level needs causal encoders below it. There is one target pass per level, on the target of the level below. The loss
    is the weighted sum over levels.

    Args:
        config: weights, tasks and gradients of the levels, and the configuration of the encoder to export.
        levels: from the pixels up.
    """

    predicts_targets = True

    def __init__(self, config: HJepaConfig, levels: Sequence[JEPA]) -> None:
        super().__init__()
        self.config = config
        self.levels = nn.ModuleList(levels)
        self.detached = [level.detach for level in config.levels]
        ends = accumulate((len(mask_sets) for mask_sets in config.level_masks), initial=0)
        self.mask_slices = [slice(*pair) for pair in pairwise(ends)]
        """Slice of the batch's masks that belongs to each level."""
        self.embedding_width = self.jepas[0].embedding_width

    @property
    def jepas(self) -> list[JEPA]:
        """Return the levels, from the pixels up."""
        return [*self.levels]  # pyright: ignore[reportReturnType]

    def forward(self, batch: Batch, step: int, seed: int) -> Output:
        inputs, outputs = self.level_inputs(batch), []
        for number, (level, masks) in enumerate(zip(self.jepas, self.mask_slices, strict=True)):
            level_batch = batch._replace(masks=batch.masks[masks])
            encoded = inputs.targets[number], inputs.contexts(number, level_batch.masks)
            outputs.append(level(level_batch, step, seed, encoded))
        return self.combine(outputs)

    def level_inputs(self, batch: Batch) -> LevelInputs:
        return LevelInputs(self.jepas, self.detached, concatenate_views(batch.views))

    def combine(self, outputs: Sequence[Output]) -> Output:
        """Return the outputs of all levels as one, with weighted losses."""
        losses, metrics = {}, {}
        for number, (level, output) in enumerate(zip(self.config.levels, outputs, strict=True), start=1):
            losses |= {f"level{number}/weighted/{name}": level.weight * loss for name, loss in output.losses.items()}
            unweighted = {name: loss.detach() for name, loss in output.losses.items()} | output.metrics
            metrics |= {f"level{number}/{name}": value for name, value in unweighted.items()}
        above = tuple(Vectors(output.features, output.targets, output.predictions) for output in outputs[1:])
        return outputs[0]._replace(losses=losses, metrics=metrics, above=above)

    @torch.no_grad()
    def energy(self, batch: Batch) -> list[Energy]:
        """Return the energy of each image or clip at each token, for each level."""
        inputs = self.level_inputs(batch)
        return [
            level.token_energy(inputs.contexts(number, batch.masks[masks]), inputs.targets[number], batch.masks[masks])
            for number, (level, masks) in enumerate(zip(self.jepas, self.mask_slices, strict=True))
        ]

    def networks(self) -> list[nn.Module]:
        return [network for level in self.jepas for network in level.networks()]

    def after_optimizer_step(self, step: int, schedule_steps: int) -> None:
        for level in self.jepas:
            level.after_optimizer_step(step, schedule_steps)

    def encoders_by_level(self) -> list[list[BaseEncoder]]:
        return [encoders for level in self.jepas for encoders in level.encoders_by_level()]

    @property
    def export_kind(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        kinds = {level.export_kind for level in self.jepas}
        return kinds.pop() if len(kinds) == 1 else "mixed"

    @property
    def encoder_to_export(self) -> Encoder | Stack:
        """Return the stack of all levels' encoders; for a single level its encoder."""
        return self.stack([level.encoder_to_export for level in self.jepas])  # pyright: ignore[reportArgumentType]

    def stack(self, encoders: Sequence[Encoder]) -> Encoder | Stack:
        """Return one encoder per level as a stack; a single encoder itself."""
        if len(encoders) == 1:
            return encoders[0]
        return Stack(StackConfig(**self.config.encoder.model_dump(), above=self.config.above), encoders)

    def world_model(self, level: int) -> WorldModel:
        """Return encoder and predictor of a forward level, counted from 1.

        Raises:
            ValueError: there is no such level, or its task is masked.
        """
        if not 1 <= level <= len(self.levels):
            raise ValueError(f"level {level} of a stack of {len(self.levels)}: levels are counted from 1")
        predictor = self.jepas[level - 1].predictor
        if not predictor.predicts_future:
            raise ValueError(f"level {level} predicts masked blocks, not the future: its task is masked, not forward")
        encoder = self.stack(self.encoders_behind(level)).read_level(level)
        return WorldModel(encoder, predictor)  # pyright: ignore[reportArgumentType]

    def encoders_behind(self, level: int) -> list[Encoder]:
        """Return the encoders whose output the predictor of a level, counted from 1, was trained on.

        These are the trained encoder of the level, and below it the trained ones down to where the gradient stops; from there on
        the ones to export, as on the levels above.
        """
        encoders = [jepa.encoder_to_export for jepa in self.jepas]
        for number in reversed(range(level)):
            encoders[number] = self.jepas[number].encoder
            if self.detached[number]:
                break
        return encoders  # pyright: ignore[reportReturnType]

    @property
    def widths(self) -> list[tuple[int, int]]:
        return [pair for level in self.jepas for pair in level.widths]
