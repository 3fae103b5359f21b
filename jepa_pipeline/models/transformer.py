"""The transformer blocks of encoders and predictors, their attention masks and their initialization."""

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
    """The layer norm of transformers, computed in the wider of the dtypes of its input and its weights."""

    def __init__(self, dim: int, **factory_kwargs: Any) -> None:
        super().__init__(dim, eps=1e-6, **factory_kwargs)

    def forward(self, input: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
        # Sharded under bf16, weights are gathered in bf16 while the sum of the residual stream stays fp32.
        dtype = torch.promote_types(input.dtype, self.weight.dtype)
        return F.layer_norm(input, self.normalized_shape, self.weight.to(dtype), self.bias.to(dtype), self.eps)


def set_norm_eps(network: nn.Module, eps: float) -> int:
    """Set the epsilon of all layer norms, and return how many there are."""
    norms = [module for module in network.modules() if isinstance(module, nn.LayerNorm)]
    for norm in norms:
        norm.eps = eps
    return len(norms)


def why_not_eps(eps: float) -> str:
    """Return why timm cannot create layer norms with an epsilon that is not its own; see BaseEncoder.why_not_timm."""
    return f"has layer norms with an epsilon of {eps:g}, for which timm has no argument"


class Transformer(nn.Sequential):
    """timm's pre-norm ViT blocks, or those with rotary positions; both have the same parameter names."""

    def __init__(self, dim: int, depth: int, num_heads: int, mlp_ratio: float, rotary: bool) -> None:
        # No token is a prefix: there is no class token that rotary positions would have to skip.
        block = partial(EvaBlock, attn_type="rope", num_prefix_tokens=0) if rotary else Block
        super().__init__(
            *(block(dim, num_heads, mlp_ratio=mlp_ratio, qkv_bias=True, norm_layer=LayerNorm) for _ in range(depth))  # pyright: ignore[reportArgumentType]
        )

    def forward(
        self,
        input: Float[Tensor, "B N D"],
        rope: Float[Tensor, "*_ N E"] | None = None,
        attn_mask: Bool[Tensor, "*_ N N"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Return the tokens after the last block.

        Args:
            input: tokens with positions added, or without if rope is given.
            rope: sines and cosines by which rotary blocks rotate queries and keys (rotary.py).
            attn_mask: True where a token, by row, may attend to another, by column; None: everywhere.
        """
        return self.forward_intermediates(input, rope, attn_mask, 1)[0]

    def forward_intermediates(
        self,
        tokens: Float[Tensor, "B N D"],
        rope: Float[Tensor, "*_ N E"] | None,
        attn_mask: Bool[Tensor, "*_ N N"] | None,
        last: int,
    ) -> list[Float[Tensor, "B N D"]]:
        """Return the tokens after each of the `last` blocks, in order of depth."""
        # Block has no argument rope, so it is passed only when there is one.
        options = {"rope": rope, "attn_mask": attn_mask}
        options = {name: value for name, value in options.items() if value is not None}
        outputs = []
        for number, block in enumerate(self, start=1):
            tokens = block(tokens, **options)
            if number > len(self) - last:
                outputs.append(tokens)
        return outputs


def causal_mask(steps: Int[Tensor, "*S N"], window: int | None) -> Bool[Tensor, "*S N N"]:
    """Return which token may attend to which: to those of its own and of earlier time steps.

    Args:
        steps: time step of each token.
        window: number of time steps that a token may attend to, its own included; None: all.
    """
    age = steps[..., :, None] - steps[..., None, :]
    return age >= 0 if window is None else (age >= 0) & (age < window)


def set_fused_attn(network: nn.Module, fused: bool) -> None:
    """Use torch's fused attention, or matrix product, softmax and matrix product, in all layers.

    On CPUs the backward pass of fused attention in bf16 makes a step 1.6 times slower; in fp32 there is no difference
    (tools/bench_step.py on configs/ijepa_fashion_mnist.yaml, one core of an AMD EPYC, torch 2.13).
    """
    for module in network.modules():
        # Every attention layer of timm reads this attribute of its own at each forward pass.
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def init_weights(network: nn.Module, std: float | None, depth_scaling: bool = False) -> None:
    """Set biases to zero and weights by Xavier's uniform rule, or from a normal distribution with the given deviation.

    Xavier's rule (Glorot and Bengio 2010) depends on each layer's width, with a patch embedding as one flat layer. I-JEPA
    published a deviation of 0.02, which suits wide networks; in narrow ones patches then weigh little beside their positions,
    and the representation can collapse to positions alone.

    Args:
        network: its linear and convolutional layers are initialized.
        std: the deviation; None: Xavier's rule.
        depth_scaling: divide the layers that write to the residual stream, the output projections of attention and MLP in
            block i = 1, 2, ..., by sqrt(2 i), so that every block adds less than the one before it. V-JEPA 2's weights
            started so. The code of I-JEPA and V-JEPA divides too, but then initializes these layers again.
    """
    for layer in network.modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d):
            continue
        if std is None:
            nn.init.xavier_uniform_(layer.weight.view(len(layer.weight), -1))
        else:
            nn.init.trunc_normal_(layer.weight, std=std)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    if depth_scaling:
        blocks = [pair for module in network.modules() if isinstance(module, Transformer) for pair in enumerate(module, start=1)]
        for number, block in blocks:
            for name in ("attn.proj.weight", "mlp.fc2.weight"):
                block.get_parameter(name).div_((2 * number) ** 0.5)
