"""Schedules as pure functions of the optimizer step, counted from 1; they know no loader, epoch or accumulation."""

from math import cos, pi

from jepa_pipeline.config.optim import OptimConfig


def cosine(fraction: float, start: float, end: float) -> float:
    """Return the value at a fraction of half a cosine from start to end; end beyond it."""
    return end + (start - end) * (1 + cos(pi * min(fraction, 1.0))) / 2


def linear(fraction: float, start: float, end: float) -> float:
    """Return the value at a fraction of a line from start to end; end beyond it."""
    return start + (end - start) * min(fraction, 1.0)


DECAYS = {"cosine": cosine, "linear": linear}


def learning_rate(step: int, config: OptimConfig) -> float:
    """Return the learning rate of a step.

    It rises linearly from start_lr to lr during warm-up, stays there for constant_samples, then decays to final_lr at the
    end of the stretched schedule. A constant phase with a linear decay is the warmup-constant-decay schedule that V-JEPA 2
    (Assran et al. 2025) runs in two phases. lr_rule multiplies all three rates.
    """
    start, peak, final = (rate * config.lr_factor for rate in (config.start_lr, config.lr, config.final_lr))
    warmup = config.warmup_steps
    if step < warmup:
        return start + (peak - start) * step / warmup
    # with schedule_stretch > 1 (I-JEPA's ipe_scale) the run ends before schedule_steps, at a rate above final_lr
    fraction = (step - config.decay_start) / max(1, config.schedule_steps - config.decay_start)
    return DECAYS[config.decay](max(0.0, fraction), peak, final)


def weight_decay(step: int, config: OptimConfig) -> float:
    """Return the weight decay of a step: a cosine to final_weight_decay, or a constant if that is null."""
    final = config.weight_decay if config.final_weight_decay is None else config.final_weight_decay
    return cosine(step / config.schedule_steps, config.weight_decay, final)
