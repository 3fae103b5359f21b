"""The narrow transformer that predicts the target tokens of masked blocks."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jepa_pipeline.batch import Masks
from jepa_pipeline.config.networks import EncoderConfig, PredictorConfig
from jepa_pipeline.models.positions import sincos
from jepa_pipeline.models.rotary import gather_rope, rope_table
from jepa_pipeline.models.tokens import apply_masks
from jepa_pipeline.models.transformer import LayerNorm, Transformer, init_weights


class Predictor(nn.Module):
    """The predictor of I-JEPA (Assran et al. 2023, section 3) and V-JEPA (Bardes et al. 2024, section 3).

    It attends from one mask token per masked position to the context tokens, in its own width, with positions of the
    encoder's kind. Each mask set has its own mask token, as in V-JEPA, or all share one, as in V-JEPA 2. Each target block is
    predicted in a separate pass, so that blocks do not attend to each other.

    Args:
        config: its sizes.
        encoder: configuration of the encoder whose tokens it predicts.
        mask_sets: number of mask sets per sample.
    """

    pos_embed: Float[Tensor, "N P"] | None
    rope: Float[Tensor, "N E"] | None
    predicts_future = False
    monitored = 0
    """Index of the prediction that the health meters see: that of the first mask set."""

    def __init__(self, config: PredictorConfig, encoder: EncoderConfig, mask_sets: int = 1) -> None:
        super().__init__()
        dim, heads, rotary = config.embed_dim, config.num_heads, encoder.rotary
        self.num_heads, self.mlp_ratio = heads, config.mlp_ratio
        self.embed = nn.Linear(encoder.size.embed_dim, dim)
        self.mask_sets = mask_sets
        self.mask_token = nn.Parameter(torch.zeros(1 if config.shared_mask_token else mask_sets, 1, dim))
        self.register_buffer("pos_embed", None if rotary else sincos(encoder, dim), persistent=False)
        rope = rope_table(encoder.clip_grid, dim // heads, encoder.positions == "rope_tiled") if rotary else None
        self.register_buffer("rope", rope, persistent=False)
        self.blocks = Transformer(dim, config.depth, heads, config.mlp_ratio, rotary)
        self.norm = LayerNorm(dim)
        self.proj = nn.Linear(dim, encoder.size.embed_dim)
        init_weights(self, config.init_std, config.init_depth_scaling)
        if config.mask_token_std:
            nn.init.trunc_normal_(self.mask_token, std=config.mask_token_std)
        # a single mask set is the loss itself, so it needs no metric of its own
        self.metric_names = [f"set{number}" for number in range(mask_sets)] if mask_sets > 1 else []

    def forward(self, contexts: Sequence[Float[Tensor, "B _ D"]], masks: Sequence[Masks]) -> list[Float[Tensor, "B _ _ D"]]:
        """Return the predicted tokens "B G M D" of the target blocks of each mask set, given its context tokens.

        Raises:
            ValueError: the number of contexts or masks is not that of the mask sets.
        """
        tokens = self.mask_token.expand(self.mask_sets, -1, -1)
        return [self.predict_blocks(*inputs) for inputs in zip(contexts, masks, tokens, strict=True)]

    def context_masks(self, masks: Sequence[Masks]) -> list[Int[Tensor, "B _"]]:
        """Return the positions that the encoder sees, for each mask set."""
        return [mask.context for mask in masks]

    def select_targets(self, target: Float[Tensor, "B N D"], masks: Sequence[Masks]) -> list[Float[Tensor, "B _ _ D"]]:
        """Return the tokens "B G M D" to predict for each mask set."""
        return [apply_masks(target, mask.targets) for mask in masks]

    def predict(self, contexts: Sequence[Float[Tensor, "B _ D"]], masks: Sequence[Masks]) -> list[Float[Tensor, "B _ _ D"]]:
        """Return the prediction of what `select_targets` returns."""
        return self(contexts, masks)  # through __call__, whose hooks gather a sharded network's weights

    predict_masked = predict
    """Return the prediction of the masks' target blocks, as ForwardPredictor.predict_masked does."""

    def predict_blocks(
        self, context: Float[Tensor, "B K D"], masks: Masks, mask_token: Float[Tensor, "1 P"]
    ) -> Float[Tensor, "B G M D"]:
        samples, blocks, length = masks.targets.shape
        context = self.embed(context)  # B K P; bf16 under autocast, and fp32 once concatenated with the mask tokens
        queries = mask_token.expand(samples, blocks, length, -1)  # B G M P
        if self.pos_embed is not None:
            context, queries = context + self.pos_embed[masks.context], queries + self.pos_embed[masks.targets]
        tokens = torch.cat([repeat(context, blocks), queries.flatten(0, 1)], dim=1)  # B*G K+M P
        index = torch.cat([repeat(masks.context, blocks), masks.targets.flatten(0, 1)], dim=1)  # B*G K+M
        predicted = self.blocks(tokens, None if self.rope is None else gather_rope(self.rope, index))[:, context.shape[1] :]
        return self.proj(self.norm(predicted)).unflatten(0, (-1, blocks))


def repeat(tensor: Tensor, count: int) -> Tensor:
    """Return each row `count` times, next to each other."""
    return tensor[:, None].expand(-1, count, *tensor.shape[1:]).flatten(0, 1)
