"""Joint-embedding predictive architectures on top of one another."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import nn

from jepa_pipeline.batch import Batch, Energy, Output, Vectors
from jepa_pipeline.config.hjepa import ForwardConfig, HJepaConfig, LevelConfig
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.stack import CoarseEncoderConfig, StackConfig
from jepa_pipeline.methods.forward_jepa import FORWARD_TARGETS
from jepa_pipeline.methods.jepa import TARGETS, SharedJEPA, together
from jepa_pipeline.methods.level_inputs import Sight
from jepa_pipeline.methods.method import Kept, Method
from jepa_pipeline.models.build import AnyEncoder
from jepa_pipeline.models.coarse import coarse_encoder
from jepa_pipeline.models.dynamics import ForwardPredictor
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.stack import Stack
from jepa_pipeline.models.world_model import WorldModel


class HJEPA(Method):
    """H-JEPA (LeCun 2022, section 4.6): every level is a JEPA of its own, which sees what the level below represents, coarser in
    space and time, and predicts further with less detail.

    What a level's task hides is hidden from every level below as well: a masked level's context is represented anew from the
    patches under its visible cells alone, and a forward level stands on encoders that do not look ahead. Of targets there is one
    pass a level, each on the target of the level below. The loss is the weighted sum of the levels'.
    """

    def __init__(self, config: HJepaConfig) -> None:
        super().__init__()
        self.config = config
        below = [None, *config.encoders]
        self.levels = nn.ModuleList(new_level(*pair) for pair in zip(config.levels, below, strict=False))
        ends = accumulate((len(tasks) for tasks in config.tasks), initial=0)
        self.shares = [slice(*pair) for pair in pairwise(ends)]
        """Of the masks of a batch, those of each level."""

    @property
    def jepas(self) -> list[SharedJEPA]:
        """The levels, from the pixels up."""
        return [*self.levels]  # pyright: ignore[reportReturnType]

    def forward(self, batch: Batch) -> Output:
        sight, outputs = self.look(batch), []
        for number, (level, share) in enumerate(zip(self.jepas, self.shares, strict=True)):
            contexts = sight.contexts(number, batch.masks[share])
            outputs.append(level.answer(contexts, sight.everything[number], batch.masks[share], self.step_key))
        return self.weigh(outputs)

    def look(self, batch: Batch) -> Sight:
        return Sight(self.jepas, [level.detach for level in self.config.levels], together(batch.views))

    def weigh(self, outputs: Sequence[Output]) -> Output:
        """The outputs of all levels as one."""
        losses, metrics = {}, {}
        for number, (level, output) in enumerate(zip(self.config.levels, outputs, strict=True), start=1):
            losses |= {f"level{number}/weighted/{name}": level.weight * loss for name, loss in output.losses.items()}
            plain = {name: loss.detach() for name, loss in output.losses.items()} | output.metrics
            metrics |= {f"level{number}/{name}": value for name, value in plain.items()}
        above = tuple(Vectors(one.features, one.targets, one.predictions) for one in outputs[1:])
        return outputs[0]._replace(losses=losses, metrics=metrics, above=above)

    @torch.no_grad()
    def energy(self, batch: Batch) -> list[Energy]:
        """How badly what is hidden in each image or clip goes with what is seen, at each level."""
        sight = self.look(batch)
        return [
            level.surprise(sight.contexts(number, batch.masks[share]), sight.everything[number], batch.masks[share])
            for number, (level, share) in enumerate(zip(self.jepas, self.shares, strict=True))
        ]

    def networks(self) -> list[nn.Module]:
        return [network for level in self.jepas for network in level.networks()]

    def after_step(self, step: int, schedule_steps: int) -> None:
        for level in self.jepas:
            level.after_step(step, schedule_steps)

    @property
    def kept(self) -> Kept:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What kind of encoder the levels keep."""
        kinds: list[Kept] = [level.kept for level in self.jepas]
        return kinds[0] if len({*kinds}) == 1 else "mixed"

    @property
    def kept_encoder(self) -> AnyEncoder:
        """All levels' on top of one another; of one level its own."""
        return self.stack([level.kept_encoder for level in self.jepas])

    def stack(self, encoders: Sequence[Encoder]) -> Encoder | Stack:
        """Encoders of all levels as one; of one level the encoder itself."""
        if len(encoders) == 1:
            return encoders[0]
        return Stack(StackConfig(**self.config.encoder.model_dump(), above=self.config.above), encoders)

    def world_model(self, level: int) -> WorldModel:
        """What a level, counted from 1, knows of the future.

        Raises:
            ValueError: there is no such level, or it was not asked for the future.
        """
        if not 1 <= level <= len(self.levels):
            raise ValueError(f"level {level} of a stack of {len(self.levels)}: levels are counted from 1")
        predictor = self.jepas[level - 1].predictor
        if not isinstance(predictor, ForwardPredictor):
            raise ValueError(f"level {level} predicts what is hidden and not what follows: its task is masked, not forward")
        stack = self.stack(self.trained_with(level))
        return WorldModel(stack.reading(level) if isinstance(stack, Stack) else stack, predictor)

    def trained_with(self, level: int) -> list[Encoder]:
        """The encoders through which the predictor of a level was shown its states: that level's own, trained one, and below it the
        kept ones from where a gradient ended. Those of higher levels are the kept ones.
        """
        encoders, kept = [jepa.kept_encoder for jepa in self.jepas], False
        for number in reversed(range(level)):
            if not kept:
                encoders[number] = self.jepas[number].encoder
            kept = kept or self.config.levels[number].detach
        return encoders

    @property
    def vector_width(self) -> int:
        return self.jepas[0].vector_width

    @property
    def widths(self) -> list[tuple[int, int]]:
        return [pair for level in self.jepas for pair in level.widths]


def new_level(config: LevelConfig, below: EncoderConfig | None) -> SharedJEPA:
    """An untrained level. below: the encoder whose tokens it sees; None: it sees pixels."""
    kinds = FORWARD_TARGETS if isinstance(config.task, ForwardConfig) else TARGETS
    if isinstance(config.encoder, CoarseEncoderConfig):
        assert below is not None
        return kinds[config.target](config, coarse_encoder(config.encoder, below))
    return kinds[config.target](config, Encoder(config.encoder))
