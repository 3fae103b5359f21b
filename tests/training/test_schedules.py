"""Schedules are pure functions of the optimiser step, and are the published ones."""

import pytest

from jepa_pipeline.config.optim import OptimConfig
from jepa_pipeline.training.schedules import learning_rate, weight_decay

PUBLISHED = OptimConfig(batch_size_global=1, total_samples=100, warmup_samples=20, lr=1e-3, start_lr=2e-4, final_lr=1e-6)
"""Ten epochs of ten iterations, two of them warm-up: the setting for which the release's numbers are known."""


@pytest.mark.parametrize(
    ("step", "rate"), [(1, 2.4e-4), (19, 9.6e-4), (20, 1e-3), (21, 9.996149e-4), (60, 5.005e-4), (99, 1.3850964e-6), (100, 1e-6)]
)
def test_the_rate_is_the_published_one(step, rate):
    assert learning_rate(step, PUBLISHED) == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize(("step", "decay"), [(1, 0.040088819), (20, 0.074376941), (60, 0.27562306), (100, 0.4)])
def test_the_decay_is_the_published_one(step, decay):
    assert weight_decay(step, PUBLISHED) == pytest.approx(decay, rel=1e-6)


def test_a_stretched_schedule_is_the_longer_one_cut_short():
    stretched = PUBLISHED.model_copy(update={"schedule_stretch": 1.25})
    longer = PUBLISHED.model_copy(update={"total_samples": 125})
    assert stretched.total_steps == 100
    for step in (1, 20, 57, 100):
        assert learning_rate(step, stretched) == learning_rate(step, longer)
        assert weight_decay(step, stretched) == weight_decay(step, longer)


def test_without_warmup_the_first_step_is_near_the_peak():
    config = PUBLISHED.model_copy(update={"warmup_samples": 0})
    assert learning_rate(1, config) == pytest.approx(1e-3, rel=1e-3)
