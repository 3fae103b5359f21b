"""Joint-embedding predictive architectures."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from jepa_pipeline.batch import Batch, Output
from jepa_pipeline.config.jepa import IJepaConfig, VJepaConfig
from jepa_pipeline.losses.prediction import l1, smooth_l1
from jepa_pipeline.methods.method import Method
from jepa_pipeline.methods.regularizer import build_regularizer
from jepa_pipeline.models.ema import make_target, update_ema
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.predictor import Predictor
from jepa_pipeline.models.tokens import take

Tokens = Float[Tensor, "B _ D"]

DISTANCES = {"ijepa": smooth_l1, "vjepa": l1, "vjepa2": l1}
"""Between predicted and true representations, by method."""


class SharedJEPA(Method):
    """Predict, in representation space, the hidden part of x from its visible part (Assran et al. 2023, section 3; Bardes et al.
    2024, section 3).

    energy(x) = distance(predictor(encoder(x_context), where), normalise(target(x))_where)

    x is an image or a clip. Each set of masks asks a question of its own, and their energies are averaged; they share one pass of
    the target and one patch embedding.

    Here the target is the encoder itself, with its gradient: only a regulariser of both representations keeps them from
    collapsing, as in LeCun 2022 (section 4.5).
    """

    def __init__(self, config: IJepaConfig | VJepaConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config.encoder)
        self.predictor = Predictor(config.predictor, config.encoder, sets=len(config.mask_sets))
        self.distance = DISTANCES[config.name]
        self.regularizer = build_regularizer(config.regularizer, config.encoder.size.embed_dim)

    def represent(self, pixels: Float[Tensor, "B C *T H W"]) -> Tokens:
        """All of the image or clip, as the target sees it."""
        return self.encoder(pixels)

    def trained(self, contexts: list[Tokens], everything: Tokens) -> list[Tokens]:
        """The representations that have a gradient, which is to keep information in them."""
        return [*contexts, everything]

    def forward(self, batch: Batch) -> Output:
        pixels = torch.cat(batch.views) if len(batch.views) > 1 else batch.views[0]
        everything = self.represent(pixels)  # B N D
        normed = F.layer_norm(everything.float(), everything.shape[-1:])
        targets = [take(normed, masks.targets) for masks in batch.masks]  # B G M D of every set
        contexts = self.encoder(pixels, keep=[masks.context for masks in batch.masks])  # B K D of every set
        predictions = self.predictor(contexts, batch.masks)  # B G M D of every set
        distances = [self.distance(*pair) for pair in zip(predictions, targets, strict=True)]
        return Output(
            losses=mean_terms(distances) | self.regularizer(self.trained(contexts, everything), self.step_key),
            features=everything.detach().mean(1),
            targets=targets[0].detach().flatten(0, 2),
            predictions=predictions[0].detach().flatten(0, 2),
            metrics=by_set(distances),
        )

    @property
    def kept_encoder(self) -> Encoder:
        return self.encoder

    @property
    def vector_width(self) -> int:
        return self.encoder.width


class StopGradientJEPA(SharedJEPA):
    """The target is the encoder itself, without its gradient."""

    @torch.no_grad()
    def represent(self, pixels: Float[Tensor, "B C *T H W"]) -> Tokens:
        return self.encoder(pixels)

    def trained(self, contexts: list[Tokens], everything: Tokens) -> list[Tokens]:
        return contexts


class JEPA(StopGradientJEPA):
    """I-JEPA, V-JEPA, V-JEPA 2: the target is a slow average of the encoder, and is kept."""

    kept = "target"

    def __init__(self, config: IJepaConfig | VJepaConfig) -> None:
        super().__init__(config)
        self.ema = config.ema
        self.target = make_target(self.encoder)

    @torch.no_grad()
    def represent(self, pixels: Float[Tensor, "B C *T H W"]) -> Tokens:
        return self.target(pixels)

    @property
    def kept_encoder(self) -> Encoder:
        return self.target

    def after_step(self, step: int, schedule_steps: int) -> None:
        update_ema(self.target, self.encoder, linear_momentum(step, schedule_steps, *self.ema))


TARGETS = {"ema": JEPA, "stop_gradient": StopGradientJEPA, "shared": SharedJEPA}


def mean_terms(terms: Sequence[dict[str, Float[Tensor, ""]]]) -> dict[str, Float[Tensor, ""]]:
    """The mean of each term over the sets of masks."""
    return {name: torch.stack([of_set[name] for of_set in terms]).mean() for name in terms[0]}


def by_set(terms: Sequence[dict[str, Float[Tensor, ""]]]) -> dict[str, Float[Tensor, ""]]:
    """Each term of each set of masks for the log, where there are several."""
    if len(terms) == 1:
        return {}
    return {f"{name}/set{number}": term.detach() for number, of_set in enumerate(terms) for name, term in of_set.items()}


def linear_momentum(step: int, steps: int, start: float, end: float) -> float:
    """The target's momentum after update number `step`, counted from 1: `start` at the first, `end` after the last."""
    return start + (end - start) * min((step - 1) / steps, 1.0)
