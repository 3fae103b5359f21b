"""The attentive classifiers of V-JEPA (Bardes et al. 2024) and V-JEPA 2 (Assran et al. 2025)."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

STD = 0.02
"""Of the first weights, as published; the classifier has torch's own, as published too."""
SELF_ATTENTION = {"vjepa": 0, "vjepa2": 3}
"""Transformer blocks on the tokens before the query sees them."""


class AttentivePooler(nn.Module):
    """One learned query that attends to all tokens, then an MLP and a linear classifier.

    The query is not normed, keys and values are of the normed tokens, and nothing projects what attention gives: both releases
    have a projection's weights or had them, and use none. There is no bias of the keys, which no softmax could feel.

    Raises:
        ValueError: width is no multiple of heads.
    """

    def __init__(self, width: int, classes: int, heads: int, form: Literal["vjepa", "vjepa2"]) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"tokens of width {width} cannot be shared by {heads} heads")
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
        """Normal matrices, zero biases; residual projections are scaled down by depth, the last as those of the block before it."""
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
        """Logits of the classes."""
        pooled = self.query + self.attend(self.blocks(tokens.float()))
        return self.classifier(pooled + self.mlp(pooled))

    def attend(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B D"]:
        """What the query finds.

        With a single query there is no need to project every token: its scalar product with a token's key is that of the token
        with the query carried back through the keys' weights, and the mean of values is the value of a mean of tokens. The norm's
        scale and shift are carried along, so that the normed tokens are the same whatever the weights.
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
    """The largest number up to a limit that divides the width."""
    return next(number for number in range(min(limit, width), 0, -1) if width % number == 0)
