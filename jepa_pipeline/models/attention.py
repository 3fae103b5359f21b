"""Which of timm's two ways to compute attention."""

from torch import nn


def use_attention(network: nn.Module, fused: bool) -> None:
    """Torch's fused call, or matrix product, softmax, matrix product.

    On a CPU the backward pass of the fused call in bf16 is so slow that a whole step takes 1.6 times as long, and in fp32 there is
    no difference (tools/bench_step.py on configs/ijepa_fashion_mnist.yaml, one core of an AMD EPYC, torch 2.13).
    """
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused  # pyright: ignore[reportArgumentType]
