"""Joint-embedding predictive architectures."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from jepa_pipeline.batch import Batch, Energy, Masks, Output
from jepa_pipeline.losses.prediction import mean_distance, token_distance
from jepa_pipeline.methods.method import Method
from jepa_pipeline.methods.regularizer import Regularizer
from jepa_pipeline.methods.targets import Target
from jepa_pipeline.models.dynamics import ForwardPredictor
from jepa_pipeline.models.interface import TokenEncoder
from jepa_pipeline.models.predictor import Predictor
from jepa_pipeline.models.tokens import apply_masks, layer_norm

Tokens = Float[Tensor, "B _ D"]


class JEPA(Method):
    """I-JEPA (Assran et al. 2023, section 3), V-JEPA (Bardes et al. 2024, section 3) and V-JEPA 2 (Assran et al. 2025).

    energy(x) = distance(predictor(encoder(x_context), masks), layer_norm(target(x))_masked)

    x is an image or a clip. The energies of its mask sets, which share one pass of the target and one patch embedding, are
    averaged. With a shared target and a regularizer it is the JEPA of LeCun 2022 (section 4.5).

    Args:
        encoder: the encoder that is trained.
        predictor: the predictor, which also selects context and target tokens; a ForwardPredictor only as a level of H-JEPA.
        target_encoder: the network whose representation is predicted.
        regularizer: prevents collapse; no terms if target and predictor do.
        distance: `l1` or `smooth_l1`.
    """

    predicts_targets = True

    def __init__(
        self,
        encoder: TokenEncoder,
        predictor: Predictor | ForwardPredictor,
        target_encoder: Target,
        regularizer: Regularizer,
        distance: str,
    ) -> None:
        super().__init__()
        self.encoder: TokenEncoder = encoder  # pyright: ignore[reportIncompatibleVariableOverride]
        self.predictor, self.regularizer = predictor, regularizer
        self.target_encoder, self.distance = target_encoder, distance
        # an average is a network of its own, to be moved, sharded and saved; None leaves no `target.*` in the state
        self.register_module("target", None if target_encoder.encoder is encoder else target_encoder.encoder)
        self.embedding_width = encoder.width

    def forward(self, batch: Batch, step: int, seed: int, encoded: tuple[Tokens, list[Tokens]] | None = None) -> Output:
        """Return the prediction error and the regularizer's terms.

        encoded: target and context tokens, where H-JEPA computed them from the level below; default: from the pixels.
        """
        pixels, masks = concatenate_views(batch.views), batch.masks
        target, context = encoded or (
            self.target_encoder(pixels),  # B N D
            self.encoder(pixels, masks=self.predictor.context_masks(masks)),  # B K D of each mask set
        )
        targets = self.predictor.select_targets(layer_norm(target), masks)  # B G M D of each mask set
        predictions = self.predictor.predict(context, masks)  # B G M D of each mask set
        errors = [mean_distance(self.distance, *pair) for pair in zip(predictions, targets, strict=True)]
        loss = {"prediction": torch.stack(errors).mean()}
        regularized = [*context, target] if self.target_encoder.has_gradient else context
        return Output(
            losses=loss | self.regularizer(regularized, seed),
            features=target.detach().mean(1),
            targets=targets[self.predictor.monitored].detach().flatten(0, 2),
            predictions=predictions[self.predictor.monitored].detach().flatten(0, 2),
            # not strict: a single mask set has no name, because its error is the loss
            metrics={f"prediction/{name}": e.detach() for name, e in zip(self.predictor.metric_names, errors, strict=False)},
        )

    @torch.no_grad()
    def energy(self, batch: Batch) -> list[Energy]:
        """Return the energy of each image or clip at each token, in a list of one level."""
        pixels = concatenate_views(batch.views)
        context = self.encoder(pixels, masks=self.predictor.context_masks(batch.masks))
        return [self.token_energy(context, self.target_encoder(pixels), batch.masks)]

    def token_energy(self, context: Sequence[Tokens], target: Tokens, masks: Sequence[Masks]) -> Energy:
        """Return the prediction error at each token, averaged over the mask sets that predict it."""
        targets, predictions = layer_norm(target).float(), self.predictor.predict_masked(context, masks)
        total, count = targets.new_zeros(2, *targets.shape[:2])
        for prediction, mask in zip(predictions, masks, strict=True):
            error = token_distance(self.distance, prediction, apply_masks(targets, mask.targets)).flatten(1)
            index = mask.targets.flatten(1)
            total.scatter_add_(1, index, error)
            count.scatter_add_(1, index, torch.ones_like(error))
        grid = self.encoder.grid
        return Energy((total / count).unflatten(1, grid), targets.unflatten(1, grid))  # 0 / 0 = NaN where nothing is predicted

    @property
    def encoder_to_export(self) -> TokenEncoder:
        return self.target_encoder.encoder

    @property
    def export_kind(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.target_encoder.export_kind

    def after_optimizer_step(self, step: int, schedule_steps: int) -> None:
        self.target_encoder.update(step, schedule_steps)


def concatenate_views(views: Sequence[Float[Tensor, "_ C *T H W"]]) -> Float[Tensor, "B C *T H W"]:
    """Return all views of all images or clips as one batch."""
    return torch.cat([*views]) if len(views) > 1 else views[0]
