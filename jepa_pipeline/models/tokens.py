"""Choosing tokens by their index, and the initialisation every transformer here shares."""

from jaxtyping import Float, Int
from torch import Tensor, nn


def take(tokens: Float[Tensor, "B N D"], index: Int[Tensor, "B *K"]) -> Float[Tensor, "B *K D"]:
    """Each sample's own choice of tokens."""
    flat = index.flatten(1)
    chosen = tokens.gather(1, flat[..., None].expand(-1, -1, tokens.shape[-1]))
    return chosen.unflatten(1, index.shape[1:])


def init_weights(module: nn.Module) -> None:
    """Normal weights of deviation 0.02 and zero biases.

    I-JEPA's release also rescales the residual projections by depth, but then initialises them again, so that no published
    weight started from the rescaled values; they are left out here.
    """
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
