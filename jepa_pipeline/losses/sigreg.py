"""LeJEPA: embeddings with a standard normal distribution (Balestriero and LeCun 2025, arXiv:2511.08544)."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from jepa_pipeline.losses.arithmetic import full, product

KNOTS, LAST_KNOT = 17, 3.0


def random_slices(width: int, count: int, seed: int, device: torch.device) -> Float[Tensor, "E K"]:
    """Return K random unit vectors, the directions of the projections.

    They depend on the seed (and the device type) alone, so all ranks have the same, and no other random number changes.
    """
    generator = torch.Generator(device).manual_seed(seed)
    return F.normalize(torch.randn(width, count, generator=generator, device=device), dim=0)


def sigreg(sample: Float[Tensor, "S E"], slices: Float[Tensor, "E K"]) -> Float[Tensor, ""]:
    """Return the Epps-Pulley test statistic of normality, averaged over directions.

    T = S × integral of |phi(t) - exp(-t²/2)|² exp(-t²/2) dt, where phi is the empirical characteristic function of the projected
    sample: by the trapezoid rule on 17 knots of [0, 3], doubled because the integrand is even. It is 1.05 on average for S normal
    vectors, and 0.4 S for S zeros.
    """
    sample = full(sample)
    return EppsPulley.apply(product(sample, slices.to(sample.dtype)))


class EppsPulley(torch.autograd.Function):
    """The statistic of each direction of a projected sample "S K", averaged, with its gradient.

    The knots are multiples of the first, so one cosine and one sine of each projection suffice: those of its multiples follow by
    the addition theorems. The gradient is summed on the way, and is all that the backward pass needs.
    """

    @staticmethod
    def forward(ctx: Any, projected: Float[Tensor, "S K"]) -> Float[Tensor, ""]:
        samples, directions = projected.shape
        knot = LAST_KNOT / (KNOTS - 1)
        first_cos, first_sin = (knot * projected).cos(), (knot * projected).sin()
        cos, sin, spare = first_cos.clone(), first_sin.clone(), torch.empty_like(first_cos)
        gradient = torch.zeros_like(projected) if ctx.needs_input_grad[0] else None
        integral = projected.new_zeros(directions)
        for n in range(1, KNOTS):  # at t = 0 the error is 0: both functions are 1
            t = n * knot
            normal = math.exp(-t * t / 2)
            weight = 2 * normal * (knot if n < KNOTS - 1 else knot / 2)
            real, imaginary = cos.mean(dim=0) - normal, sin.mean(dim=0)  # of phi(t) - exp(-t²/2)
            integral += weight * (real.square() + imaginary.square())
            if gradient is not None:
                scale = 2 * weight * t / directions
                gradient.addcmul_(sin, real, value=-scale).addcmul_(cos, imaginary, value=scale)
            cos, spare = torch.mul(cos, first_cos, out=spare).addcmul_(sin, first_sin, value=-1), cos
            sin.mul_(first_cos).addcmul_(spare, first_sin)
        ctx.save_for_backward(gradient)
        return samples * integral.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Float[Tensor, ""]) -> Float[Tensor, "S K"]:
        return ctx.saved_tensors[0] * outputs[0]


def lejepa(
    embeddings: Float[Tensor, "V S E"],
    slices: Float[Tensor, "E K"],
    weight: float = 0.05,
    global_views: int = 2,
) -> dict[str, Float[Tensor, ""]]:
    """Return the squared distance of every view to the center of the global views, and SIGReg averaged over views.

    The global views come first; their center has a gradient. The distance is averaged over all elements, the width included, as in
    the paper's minimal code, and has the weight 1 - weight.
    """
    views = full(embeddings)
    distance = (views[:global_views].mean(dim=0) - views).square().mean()
    normality = torch.stack([sigreg(view, slices) for view in views.unbind()]).mean()
    return {"invariance": (1 - weight) * distance, "sigreg": weight * normality}
