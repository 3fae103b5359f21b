"""LeJEPA: embeddings with a standard normal distribution (Balestriero and LeCun 2025, arXiv:2511.08544)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

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
    projected = product(sample, slices.to(sample.dtype))
    step = LAST_KNOT / (KNOTS - 1)
    integral = projected.new_zeros(slices.shape[1])
    for knot in range(1, KNOTS):  # at t = 0 the error is 0: both functions are 1
        t = knot * step
        width = step if knot < KNOTS - 1 else step / 2
        # recomputed in the backward pass: sines and cosines of all knots would take 32 times the memory of the projections
        error = checkpoint(squared_error, projected, t, use_reentrant=False, preserve_rng_state=False)
        integral = integral + 2 * width * math.exp(-t * t / 2) * error
    return len(sample) * integral.mean()


def squared_error(projected: Float[Tensor, "S K"], t: float) -> Float[Tensor, " K"]:
    """Return |phi(t) - exp(-t²/2)|² for each direction."""
    angles = t * projected
    return (angles.cos().mean(dim=0) - math.exp(-t * t / 2)).square() + angles.sin().mean(dim=0).square()


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
