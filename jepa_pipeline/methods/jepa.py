"""Joint-embedding predictive architectures."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jepa_pipeline.batch import Batch, Energy, Masks, Output
from jepa_pipeline.config.hjepa import LevelConfig
from jepa_pipeline.config.jepa import IJepaConfig, VJepaConfig
from jepa_pipeline.losses.prediction import by_token, l1, smooth_l1
from jepa_pipeline.methods.method import Method
from jepa_pipeline.methods.regularizer import build_regularizer
from jepa_pipeline.models.ema import make_target, update_ema
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.predictor import Predictor
from jepa_pipeline.models.tokens import normalized, take

Tokens = Float[Tensor, "B _ D"]
AnyJepaConfig = IJepaConfig | VJepaConfig | LevelConfig

DISTANCES = {"smooth_l1": smooth_l1, "l1": l1}


class SharedJEPA(Method):
    """Predict, in representation space, the hidden part of x from its visible part (Assran et al. 2023, section 3; Bardes et al.
    2024, section 3).

    energy(x) = distance(predictor(encoder(x_context), where), normalize(target(x))_where)

    x is an image or a clip. Each set of masks asks a task of its own, and their energies are averaged; they share one pass of
    the target and one patch embedding.

    Here the target is the encoder itself, with its gradient: only a regularizer of both representations keeps them from
    collapsing, as in LeCun 2022 (section 4.5).
    """

    def __init__(self, config: AnyJepaConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.predictor = self.new_predictor()
        self.regularizer = build_regularizer(config.regularizer, encoder.width)

    def new_predictor(self) -> nn.Module:
        return Predictor(self.config.predictor, self.encoder.config, sets=len(self.config.mask_sets))

    def represent(self, pixels: Float[Tensor, "B C *T H W"]) -> Tokens:
        """All of the image or clip, as the target sees it."""
        return self.encoder(pixels)

    def trained(self, contexts: list[Tokens], everything: Tokens) -> list[Tokens]:
        """The representations that have a gradient, which is to keep information in them."""
        return [*contexts, everything]

    def forward(self, batch: Batch) -> Output:
        pixels = together(batch.views)
        everything = self.represent(pixels)  # B N D
        contexts = self.encoder(pixels, keep=self.seen(batch.masks))  # B K D of every set
        return self.answer(contexts, everything, batch.masks, self.step_key)

    def seen(self, masks: Sequence[Masks]) -> list[Int[Tensor, "B K"]] | None:
        """The tokens that each task shows; None: all."""
        return [one.context for one in masks]

    def predict(self, contexts: Sequence[Tokens], masks: Sequence[Masks]) -> list[Float[Tensor, "B G M D"]]:
        """What is hidden, from what is seen, for every set."""
        return self.predictor(contexts, masks)

    def answer(self, contexts: Sequence[Tokens], everything: Tokens, masks: Sequence[Masks], key: int) -> Output:
        """The losses, of what is seen and of the target's representation of everything; key: seed of what a regularizer draws."""
        normed = normalized(everything)
        targets = [take(normed, one.targets) for one in masks]  # B G M D of every set
        predictions = self.predict(contexts, masks)
        distances = [DISTANCES[self.config.distance](*pair) for pair in zip(predictions, targets, strict=True)]
        return Output(
            losses=mean_terms(distances) | self.regularizer(self.trained([*contexts], everything), key),
            features=everything.detach().mean(1),
            targets=targets[0].detach().flatten(0, 2),
            predictions=predictions[0].detach().flatten(0, 2),
            metrics=by_set(distances),
        )

    @torch.no_grad()
    def energy(self, batch: Batch) -> list[Energy]:
        """How badly what is hidden in each image or clip goes with what is seen; of the one level there is."""
        pixels = together(batch.views)
        contexts = self.encoder(pixels, keep=self.seen(batch.masks))
        return [self.surprise(contexts, self.represent(pixels), batch.masks)]

    def surprise(self, contexts: Sequence[Tokens], everything: Tokens, masks: Sequence[Masks]) -> Energy:
        """The prediction's error at each token."""
        targets, predictions = normalized(everything).float(), self.predict(contexts, masks)
        total, asked = targets.new_zeros(2, *targets.shape[:2])
        for prediction, one in zip(predictions, masks, strict=True):
            error = by_token(self.config.distance, prediction, take(targets, one.targets)).flatten(1)
            places = one.targets.flatten(1)
            total.scatter_add_(1, places, error)
            asked.scatter_add_(1, places, torch.ones_like(error))
        grid = self.encoder.grid
        return Energy((total / asked).unflatten(1, grid), targets.unflatten(1, grid))  # 0 / 0 where nothing is asked

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

    def __init__(self, config: AnyJepaConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        self.target = make_target(self.encoder)

    @torch.no_grad()
    def represent(self, pixels: Float[Tensor, "B C *T H W"]) -> Tokens:
        return self.target(pixels)

    @property
    def kept_encoder(self) -> Encoder:
        return self.target

    def after_step(self, step: int, schedule_steps: int) -> None:
        update_ema(self.target, self.encoder, linear_momentum(step, schedule_steps, *self.config.ema))


TARGETS = {"ema": JEPA, "stop_gradient": StopGradientJEPA, "shared": SharedJEPA}


def together(views: Sequence[Float[Tensor, "_ C *T H W"]]) -> Float[Tensor, "B C *T H W"]:
    """All views of all images or clips as one batch."""
    return torch.cat([*views]) if len(views) > 1 else views[0]


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
