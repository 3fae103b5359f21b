"""A joint-embedding predictive architecture that is asked for the future."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from jepa_pipeline.batch import Masks, Output
from jepa_pipeline.config.hjepa import ForwardConfig, LevelConfig
from jepa_pipeline.methods.jepa import DISTANCES, JEPA, SharedJEPA, StopGradientJEPA, Tokens
from jepa_pipeline.models.dynamics import ForwardPredictor
from jepa_pipeline.models.tokens import normalized


class ForwardSharedJEPA(SharedJEPA):
    """Predict the states of the next time steps, each from the prediction before it, from every state of a clip at once.

    The encoder does not look ahead, so that in one pass it represents every past, and a state x_0..x_t knows only these.
    """

    predictor: ForwardPredictor

    def new_predictor(self) -> ForwardPredictor:
        return ForwardPredictor(self.config.predictor, self.encoder.config)

    @property
    def horizon(self) -> int:
        """Time steps that are rolled out."""
        assert isinstance(self.config, LevelConfig) and isinstance(self.config.task, ForwardConfig)
        return self.config.task.horizon

    def seen(self, masks: Sequence[Masks]) -> None:
        """Everything, for no token has seen what comes after it."""

    def predict(self, contexts: Sequence[Tokens], masks: Sequence[Masks]) -> list[Float[Tensor, "B 1 M D"]]:
        """The whole future of the masks, rolled out from the last state of their past."""
        ((everything,), (one,)) = contexts, masks
        states = self.states(everything)
        places = states.shape[2]
        last = states[:, one.context.shape[1] // places - 1]
        return [self.predictor.roll_out(last, one.targets.shape[2] // places).flatten(1, 2)[:, None]]

    def states(self, tokens: Tokens) -> Float[Tensor, "B T P D"]:
        """Of every time step."""
        return normalized(tokens).unflatten(1, (self.encoder.grid[0], -1))

    def answer(self, contexts: Sequence[Tokens], everything: Tokens, masks: Sequence[Masks], key: int) -> Output:
        (online,) = contexts
        targets, states, rolled = self.states(everything), self.states(online), []
        for _ in range(self.horizon):
            rolled.append(self.predictor(states[:, :-1]))  # from all states but those whose future is not in the clip
            states = normalized(rolled[-1])
        distance = DISTANCES[self.config.distance]
        ahead = [distance(predictions, targets[:, step:])["prediction"] for step, predictions in enumerate(rolled, start=1)]
        mean = {"prediction": torch.stack(ahead).mean()}
        return Output(
            losses=mean | self.regularizer(self.trained([online], everything), key),
            features=everything.detach().mean(1),
            targets=targets[:, self.horizon :].detach().flatten(0, 2),
            predictions=rolled[-1].detach().flatten(0, 2),
            metrics={f"prediction/ahead{step}": error.detach() for step, error in enumerate(ahead, start=1)},
        )


class ForwardStopGradientJEPA(ForwardSharedJEPA, StopGradientJEPA):
    """The target is the encoder itself, without its gradient."""


class ForwardJEPA(ForwardStopGradientJEPA, JEPA):
    """The target is a slow average of the encoder, and is kept."""


FORWARD_TARGETS = {"ema": ForwardJEPA, "stop_gradient": ForwardStopGradientJEPA, "shared": ForwardSharedJEPA}
