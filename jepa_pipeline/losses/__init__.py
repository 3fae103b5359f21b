"""Pure functions of whole-batch tensors: named terms whose sum is minimised. No state, no ranks."""
