"""Training objectives: modules with `forward(batch, step, seed) -> Output`, one file per family."""
