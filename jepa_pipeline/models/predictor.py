"""The narrow transformer that answers what stands at a hidden place."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

import jepa_pipeline._torchvision  # noqa: F401  # before timm
from jepa_pipeline.batch import Masks
from jepa_pipeline.config.networks import PredictorConfig
from jepa_pipeline.models.encoder import LayerNorm
from jepa_pipeline.models.positions import sincos_2d
from jepa_pipeline.models.tokens import init_weights
from timm.models.vision_transformer import Block


class Predictor(nn.Module):
    """I-JEPA's predictor (Assran et al. 2023, section 3): visible tokens and one mask token per hidden place, in its own width.

    Each target block is predicted in a pass of its own, so that blocks do not see one another.
    """

    pos_embed: Float[Tensor, "N P"]

    def __init__(self, config: PredictorConfig, encoder_dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        dim = config.embed_dim
        self.embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("pos_embed", sincos_2d(grid, dim), persistent=False)
        self.blocks = nn.Sequential(
            *(
                Block(dim, config.num_heads, mlp_ratio=config.mlp_ratio, qkv_bias=True, norm_layer=LayerNorm)  # pyright: ignore[reportArgumentType]
                for _ in range(config.depth)
            )
        )
        self.norm = LayerNorm(dim)
        self.proj = nn.Linear(dim, encoder_dim)
        init_weights(self, config.init_std)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, context: Float[Tensor, "B K D"], masks: Masks) -> Float[Tensor, "B G M D"]:
        """Predicted representations of the target blocks, from the representations of the context."""
        blocks = masks.targets.shape[1]
        seen = self.embed(context) + self.pos_embed[masks.context]  # B K P
        asked = self.mask_token + self.pos_embed[masks.targets]  # B G M P
        seen = seen[:, None].expand(-1, blocks, -1, -1)  # B G K P
        tokens = torch.cat([seen, asked.to(seen.dtype)], dim=2).flatten(0, 1)  # B*G K+M P
        answers = self.blocks(tokens)[:, seen.shape[2] :]
        return self.proj(self.norm(answers)).unflatten(0, (-1, blocks))
