"""The grid of tokens that mask sets divide, and the largest that is accepted."""

Grid = tuple[int, int, int]
"""Time steps, rows and columns of tokens; an image has one time step."""

MAX_SIDE, MAX_FRAMES, MAX_TOKENS = 2**14, 2**12, 2**16
"""Pixels of a side, frames of a clip and tokens of either, several times what any encoder has been trained on; a slip of some zeros
would otherwise take hours or all memory before it is noticed."""
MAX_BLOCKS = 64
"""Blocks of a mask set, many times those of the papers."""

TRIALS = 301
"""Images, or clips, whose masks are sampled to estimate what a mask set leaves; odd, so that the median is one of them."""
