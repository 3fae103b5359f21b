"""A joint-embedding predictive architecture that is asked for the future."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from jepa_pipeline.batch import Masks, Output
from jepa_pipeline.methods.jepa import DISTANCES, JEPA, SharedJEPA, StopGradientJEPA, Tokens
from jepa_pipeline.models.forward import ForwardPredictor
from jepa_pipeline.models.tokens import normalised


class ForwardSharedJEPA(SharedJEPA):
    """Predict the next time step of a clip from all before it, at every step at once; and, from the last past for which the horizon
    fits, several steps, each from the predictions before it (Assran et al. 2025, section 3.1).

    The encoder does not look ahead, so that in one pass it represents every past.
    """

    predictor: ForwardPredictor

    def new_predictor(self) -> ForwardPredictor:
        return ForwardPredictor(self.config.predictor, self.encoder.config)

    def seen(self, masks: Sequence[Masks]) -> None:
        """Everything, for no token has seen what comes after it."""

    def predict(self, contexts: Sequence[Tokens], masks: Sequence[Masks]) -> list[Float[Tensor, "B 1 M D"]]:
        """The whole future of the masks, rolled out from their past."""
        ((everything,), (one,)) = contexts, masks
        steps = one.targets.shape[2] // self.predictor.places
        past = normalised(everything[:, : one.context.shape[1]])
        return [self.predictor.roll_out(past, steps)[:, None]]

    def answer(self, contexts: Sequence[Tokens], everything: Tokens, masks: Sequence[Masks], key: int) -> Output:
        ((online,), (one,)) = contexts, masks
        places, past = self.predictor.places, one.context.shape[1]
        targets, states = normalised(everything)[:, places:], normalised(online[:, :-places])
        following = self.predictor(states)  # of every step but the last, the next one: B N-P D
        distance = DISTANCES[self.config.distance]
        losses = distance(following, targets)
        if (left := one.targets.shape[2] - places) > 0:
            begun = [states[:, :past], normalised(following[:, past - places : past])]
            rolled = self.predictor.roll_out(torch.cat(begun, 1), left // places)
            losses |= {"roll_out": distance(rolled, targets[:, past:])["prediction"]}
        return Output(
            losses=losses | self.regularizer(self.trained([online], everything), key),
            features=everything.detach().mean(1),
            targets=targets.detach().flatten(0, 1),
            predictions=following.detach().flatten(0, 1),
            metrics={},
        )


class ForwardStopGradientJEPA(ForwardSharedJEPA, StopGradientJEPA):
    """The target is the encoder itself, without its gradient."""


class ForwardJEPA(ForwardStopGradientJEPA, JEPA):
    """The target is a slow average of the encoder, and is kept."""


FORWARD_TARGETS = {"ema": ForwardJEPA, "stop_gradient": ForwardStopGradientJEPA, "shared": ForwardSharedJEPA}
