"""Pure functions of whole-batch tensors: named terms whose sum is minimized. No state, no ranks."""
