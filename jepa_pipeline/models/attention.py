"""The transformer between the tokens and the final norm, and which of timm's two ways to compute attention it takes."""

from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

import jepa_pipeline._torchvision  # noqa: F401  # before timm
from timm.models.eva import EvaBlock
from timm.models.vision_transformer import Block


class LayerNorm(nn.LayerNorm):
    """Of transformers. Weights that several processes gathered in half precision take part in the precision of the input."""

    def __init__(self, dim: int, **where: Any) -> None:
        super().__init__(dim, eps=1e-6, **where)

    def forward(self, input: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
        dtype = torch.promote_types(input.dtype, self.weight.dtype)
        return F.layer_norm(input, self.normalized_shape, self.weight.to(dtype), self.bias.to(dtype), self.eps)


class Blocks(nn.Sequential):
    """timm's pre-norm blocks of a ViT, or of a ViT with rotary positions; the names of the weights are the same in both."""

    def __init__(self, dim: int, depth: int, num_heads: int, mlp_ratio: float, rotary: bool) -> None:
        kind = partial(EvaBlock, attn_type="rope", num_prefix_tokens=0) if rotary else Block
        super().__init__(
            *(kind(dim, num_heads, mlp_ratio=mlp_ratio, qkv_bias=True, norm_layer=LayerNorm) for _ in range(depth))  # pyright: ignore[reportArgumentType]
        )

    def forward(
        self,
        input: Float[Tensor, "B N D"],
        rope: Float[Tensor, "*_ N E"] | None = None,
        mask: Bool[Tensor, "*_ N N"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Tokens after the last block; rope (rotary.py) turns the queries and keys of rotary blocks, mask says what each token may
        attend to.
        """
        return self.last(input, rope, mask, 1)[0]

    def last(
        self,
        tokens: Float[Tensor, "B N D"],
        rope: Float[Tensor, "*_ N E"] | None,
        mask: Bool[Tensor, "*_ N N"] | None,
        count: int,
    ) -> list[Float[Tensor, "B N D"]]:
        """Tokens after each of the last blocks, in order of depth."""
        outputs, given = [], {}
        if rope is not None:
            given["rope"] = rope
        if mask is not None:
            given["attn_mask"] = mask
        for number, block in enumerate(self, start=1):
            tokens = block(tokens, **given)
            if number > len(self) - count:
                outputs.append(tokens)
        return outputs


def no_later(steps: Int[Tensor, "*S N"], window: int | None) -> Bool[Tensor, "*S N N"]:
    """Of tokens at these time steps, which may attend to which: to those of the same and of earlier steps, no more than a window of
    them.
    """
    ago = steps[..., :, None] - steps[..., None, :]
    return ago >= 0 if window is None else (ago >= 0) & (ago < window)


def use_attention(network: nn.Module, fused: bool) -> None:
    """Torch's fused call, or matrix product, softmax, matrix product.

    On a CPU the backward pass of the fused call in bf16 is so slow that a whole step takes 1.6 times as long, and in fp32 there is
    no difference (tools/bench_step.py on configs/ijepa_fashion_mnist.yaml, one core of an AMD EPYC, torch 2.13).
    """
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused  # pyright: ignore[reportArgumentType]
