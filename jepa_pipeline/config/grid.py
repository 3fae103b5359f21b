"""The grid of tokens that mask sets divide."""

Grid = tuple[int, int, int]
"""Time steps, rows and columns of tokens; an image has one time step."""

TRIALS = 301
"""Images, or clips, whose masks are sampled to estimate what a mask set leaves; odd, so that the median is one of them."""
