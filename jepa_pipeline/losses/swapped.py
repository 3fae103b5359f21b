"""Swapped prediction of cluster codes (Caron et al. 2020, SwAV, arXiv:2006.09882)."""

from jaxtyping import Float
from torch import Tensor

from jepa_pipeline.losses.arithmetic import full


def sinkhorn(scores: Float[Tensor, "S P"], epsilon: float = 0.05, iterations: int = 3) -> Float[Tensor, "S P"]:
    """Return codes: a distribution over prototypes for each sample, such that prototypes are used about equally (eq. 3-5).

    Each iteration normalizes over samples, then over prototypes, so the sums per sample are exact and those per prototype
    approximate. Logarithms prevent overflow; the paper's factors 1/P and 1/S cancel in the next normalization. Without iterations
    it is softmax(scores / epsilon), which does not prevent collapse. Codes are targets: call it without gradients.
    """
    logs = full(scores) / epsilon
    for _ in range(iterations):
        logs = logs.log_softmax(dim=0).log_softmax(dim=1)
    return logs.softmax(dim=1)


def swapped_prediction(
    scores: Float[Tensor, "V S P"], codes: Float[Tensor, "C S P"], temperature: float = 0.1
) -> dict[str, Float[Tensor, ""]]:
    """Return the loss of predicting the codes of the first C views from all other views (eq. 2, 6).

    It is the cross entropy to softmax(scores / temperature), averaged over codes, over the other views and over samples.
    """
    predictions = (full(scores) / temperature).log_softmax(dim=-1)
    of_others = predictions.sum(dim=0) - predictions[: len(codes)]  # C S P
    return {"swapped": -(full(codes) * of_others).sum(dim=-1).mean() / (len(scores) - 1)}
