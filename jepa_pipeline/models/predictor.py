"""The narrow transformer that answers what stands at a hidden place."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa_pipeline.batch import Masks
from jepa_pipeline.config.networks import EncoderConfig, PredictorConfig
from jepa_pipeline.models.attention import Blocks, LayerNorm
from jepa_pipeline.models.positions import sincos
from jepa_pipeline.models.rotary import rope_table, take_rope
from jepa_pipeline.models.tokens import init_weights


class Predictor(nn.Module):
    """The predictor of I-JEPA (Assran et al. 2023, section 3) and V-JEPA (Bardes et al. 2024, section 3): visible tokens and one
    mask token per hidden place, in its own width.

    Its positions are of the encoder's kind. Each set of masks has a mask token of its own, as in V-JEPA. Each target block is
    predicted in a pass of its own, so that blocks do not see one another.
    """

    pos_embed: Float[Tensor, "N P"] | None
    rope: Float[Tensor, "N E"] | None

    def __init__(self, config: PredictorConfig, encoder: EncoderConfig, sets: int = 1) -> None:
        super().__init__()
        dim, heads, rotary = config.embed_dim, config.num_heads, encoder.rotary
        self.embed = nn.Linear(encoder.size.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(sets, 1, dim))
        self.register_buffer("pos_embed", None if rotary else sincos(encoder, dim), persistent=False)
        rope = rope_table(encoder.clip_grid, dim // heads, encoder.positions == "rope_tiled") if rotary else None
        self.register_buffer("rope", rope, persistent=False)
        self.blocks = Blocks(dim, config.depth, heads, config.mlp_ratio, rotary)
        self.norm = LayerNorm(dim)
        self.proj = nn.Linear(dim, encoder.size.embed_dim)
        init_weights(self, config.init_std)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, contexts: Sequence[Float[Tensor, "B _ D"]], masks: Sequence[Masks]) -> list[Float[Tensor, "B _ _ D"]]:
        """Predicted representations "B G M D" of the target blocks of every set, from the representations of its context.

        Raises:
            ValueError: there are not as many contexts and masks as sets.
        """
        return [self.predict(*one) for one in zip(contexts, masks, self.mask_token, strict=True)]

    def predict(self, context: Float[Tensor, "B K D"], masks: Masks, mask_token: Float[Tensor, "1 P"]) -> Float[Tensor, "B G M D"]:
        """The same of one set."""
        samples, blocks, asked_for = masks.targets.shape
        seen = self.embed(context)  # B K P; bf16 under autocast, fp32 beside the mask tokens
        asked = mask_token.expand(samples, blocks, asked_for, -1)  # B G M P
        if self.pos_embed is not None:
            seen, asked = seen + self.pos_embed[masks.context], asked + self.pos_embed[masks.targets]
        tokens = torch.cat([repeat(seen, blocks), asked.flatten(0, 1)], dim=1)  # B*G K+M P
        places = torch.cat([repeat(masks.context, blocks), masks.targets.flatten(0, 1)], dim=1)  # B*G K+M
        answers = self.blocks(tokens, None if self.rope is None else take_rope(self.rope, places))[:, seen.shape[1] :]
        return self.proj(self.norm(answers)).unflatten(0, (-1, blocks))


def repeat(tensor: Tensor, blocks: int) -> Tensor:
    """Each row so many times, one after another."""
    return tensor[:, None].expand(-1, blocks, *tensor.shape[1:]).flatten(0, 1)
