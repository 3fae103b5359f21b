"""Schedules as pure functions of the optimiser step, counted from 1. They know no loader, no epoch and no accumulation."""

from math import cos, pi

from jepa_pipeline.config.optim import OptimConfig


def cosine(share: float, start: float, end: float) -> float:
    """From start to end along half a cosine, as share goes from 0 to 1; end beyond it."""
    return end + (start - end) * (1 + cos(pi * min(share, 1.0))) / 2


def learning_rate(step: int, config: OptimConfig) -> float:
    """Linear from start_lr to lr over the warm-up, then a cosine to final_lr at the end of the stretched schedule."""
    warmup = config.warmup_steps
    if step < warmup:
        return config.start_lr + (config.lr - config.start_lr) * step / warmup
    return cosine((step - warmup) / max(1, config.schedule_steps - warmup), config.lr, config.final_lr)


def weight_decay(step: int, config: OptimConfig) -> float:
    """A cosine from weight_decay to final_weight_decay over the stretched schedule."""
    return cosine(step / config.schedule_steps, config.weight_decay, config.final_weight_decay)
