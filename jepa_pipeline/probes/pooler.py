"""The attentive classifiers of V-JEPA (Bardes et al. 2024) and V-JEPA 2 (Assran et al. 2025)."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

STD = 0.02
"""Standard deviation of the initial weights, as published; the classifier keeps torch's default, as published too."""
SELF_ATTENTION = {"vjepa": 0, "vjepa2": 3}
"""Transformer blocks before the query attends to the tokens."""


class AttentivePooler(nn.Module):
    """One learned query that attends to all tokens, then an MLP and a linear classifier.

    The query is not normalized, keys and values are computed from the normalized tokens, and the output of attention is not
    projected, as in both releases. Keys have no bias, because softmax does not depend on it.

    Raises:
        ValueError: width is not a multiple of heads.
    """

    def __init__(self, width: int, classes: int, heads: int, form: Literal["vjepa", "vjepa2"]) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.split = (heads, width // heads)
        self.query = nn.Parameter(torch.empty(1, width))
        self.blocks = nn.Sequential(*(transformer_block(width, heads) for _ in range(SELF_ATTENTION[form])))
        self.norm = nn.LayerNorm(width)
        self.to_query, self.to_value = nn.Linear(width, width), nn.Linear(width, width)
        self.to_key = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.init_weights()
        self.classifier = nn.Linear(width, classes)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize matrices as normal, biases as zero; scale residual projections down by depth, the last as the block before."""
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        for depth, block in enumerate(self.blocks, 1):
            assert isinstance(block, nn.TransformerEncoderLayer)
            block.self_attn.out_proj.weight.div_(math.sqrt(2 * depth))
            block.linear2.weight.div_(math.sqrt(2 * depth))
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        last.weight.div_(math.sqrt(2 * max(1, len(self.blocks))))

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B K"]:
        """Return the logits of the classes."""
        pooled = self.query + self.attend(self.blocks(tokens.float()))
        return self.classifier(pooled + self.mlp(pooled))

    def attend(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B D"]:
        """Return the output of attention.

        With a single query no token has to be projected: the product of query and key is that of the token and the query
        multiplied by the key weights, and the mean of values is the value of a mean of tokens. Scale and shift of the norm are
        applied there too, so the normalized tokens do not depend on the weights.
        """
        plain = F.layer_norm(tokens, tokens.shape[-1:], eps=self.norm.eps)
        query = self.to_query(self.query).view(self.split)
        keys = torch.einsum("he,hed->hd", query, self.to_key.weight.unflatten(0, self.split)) * self.norm.weight
        attention = (plain @ keys.T / math.sqrt(self.split[1])).softmax(1)
        means = attention.transpose(1, 2) @ plain * self.norm.weight + self.norm.bias
        values = torch.einsum("bhd,hed->bhe", means, self.to_value.weight.unflatten(0, self.split))
        return values.flatten(1) + self.to_value.bias


def transformer_block(width: int, heads: int) -> nn.Module:
    return nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)


def largest_divisor(width: int, limit: int) -> int:
    """Return the largest number up to `limit` that divides `width`."""
    return next(number for number in range(min(limit, width), 0, -1) if width % number == 0)
