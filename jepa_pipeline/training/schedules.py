"""Schedules as pure functions of the optimizer step, counted from 1. They know no loader, no epoch and no accumulation."""

from math import cos, pi

from jepa_pipeline.config.optim import OptimConfig


def cosine(share: float, start: float, end: float) -> float:
    """From start to end along half a cosine, as share goes from 0 to 1; end beyond it."""
    return end + (start - end) * (1 + cos(pi * min(share, 1.0))) / 2


def line(share: float, start: float, end: float) -> float:
    """From start to end along a line, as share goes from 0 to 1; end beyond it."""
    return start + (end - start) * min(share, 1.0)


DECAYS = {"cosine": cosine, "linear": line}


def learning_rate(step: int, config: OptimConfig) -> float:
    """Linear from start_lr to lr over the warm-up, lr while it is constant, then a cosine or a line to final_lr at the end of the
    stretched schedule. A constant stretch with a linear decay is warm-up-stable-decay, as V-JEPA 2 is trained in two runs.

    All three rates are multiplied by the factor of the configuration's lr_rule.
    """
    start, peak, final = (rate * config.lr_factor for rate in (config.start_lr, config.lr, config.final_lr))
    warmup = config.warmup_steps
    if step < warmup:
        return start + (peak - start) * step / warmup
    share = (step - config.decay_from) / max(1, config.schedule_steps - config.decay_from)
    return DECAYS[config.decay](max(0.0, share), peak, final)


def weight_decay(step: int, config: OptimConfig) -> float:
    """A cosine from weight_decay to final_weight_decay over the stretched schedule; where that is null, always weight_decay."""
    final = config.weight_decay if config.final_weight_decay is None else config.final_weight_decay
    return cosine(step / config.schedule_steps, config.weight_decay, final)
