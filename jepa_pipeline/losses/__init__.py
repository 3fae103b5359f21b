"""Losses: pure functions of whole-batch tensors that return named terms, whose sum is minimized; no state, no ranks."""
