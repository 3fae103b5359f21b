"""Swapped prediction of cluster codes (Caron et al. 2020, SwAV, arXiv:2006.09882)."""

from jaxtyping import Float
from torch import Tensor

from jepa_pipeline.losses.arithmetic import full


def sinkhorn(scores: Float[Tensor, "S P"], epsilon: float = 0.05, iterations: int = 3) -> Float[Tensor, "S P"]:
    """Codes: for each sample a distribution over prototypes, such that all prototypes are used about equally (eq. 3-5).

    Each iteration scales prototypes to equal mass, then samples; after three the samples' sums are exact, the prototypes' are not.
    In logarithms, so that no score is too large; the paper's factors 1/P and 1/S cancel in the next scaling. With no iterations
    it is softmax(scores / epsilon), and nothing equalizes. Codes are targets: call it without gradients.
    """
    logs = full(scores) / epsilon
    for _ in range(iterations):
        logs = logs.log_softmax(dim=0).log_softmax(dim=1)
    return logs.softmax(dim=1)


def swapped_prediction(
    scores: Float[Tensor, "V S P"], codes: Float[Tensor, "C S P"], temperature: float = 0.1
) -> dict[str, Float[Tensor, ""]]:
    """Every view predicts the codes of the others; codes are those of the first C views (eq. 2, 6).

    The cross entropy to softmax(scores / temperature), averaged over codes, over the views that are not their own and over samples.
    """
    predictions = (full(scores) / temperature).log_softmax(dim=-1)
    of_others = predictions.sum(dim=0) - predictions[: len(codes)]  # C S P
    return {"swapped": -(full(codes) * of_others).sum(dim=-1).mean() / (len(scores) - 1)}
