"""The verdict on collapse, from what a run has measured on its newest targets."""

MIN_RANK, MIN_STD, MAX_COSINE = 2.0, 1e-4, 0.99
"""Limits of the targets' effective rank, deviation and mean cosine; beyond any of them, all inputs are represented alike."""


def describe_collapse(rank: float | None, std: float | None, cosine: float | None) -> str | None:
    """Return "collapsed" if any limit is passed, else the rank, which alone does not tell how good a run is; None: not measured."""
    if rank is None or std is None or cosine is None:
        return None
    return "collapsed" if rank < MIN_RANK or std < MIN_STD or cosine > MAX_COSINE else f"rank {rank:.0f}"
