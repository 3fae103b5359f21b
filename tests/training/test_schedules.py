"""Schedules are pure functions of the optimizer step, and are the published ones."""

import pytest

from jepa_pipeline.config.optim import AdamWConfig, LARSConfig, SGDConfig
from jepa_pipeline.training.schedules import learning_rate, weight_decay

PUBLISHED = AdamWConfig(
    batch_size_global=1, total_samples=100, warmup_samples=20, lr=1e-3, start_lr=2e-4, final_lr=1e-6, final_weight_decay=0.4
)
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


STABLE = AdamWConfig(  # 15 epochs of 300 steps up, 285 at the peak, 15 down
    batch_size_global=1,
    total_samples=94_500,
    warmup_samples=4_500,
    constant_samples=85_500,
    decay="linear",
    lr=4.25e-4,
    start_lr=7.5e-5,
    final_lr=0.0,
)


@pytest.mark.parametrize(
    ("step", "rate"),
    [(1, 7.507778e-5), (4_500, 4.25e-4), (50_000, 4.25e-4), (90_000, 4.25e-4), (90_001, 4.249056e-4), (94_500, 0.0)],
)
def test_warmup_constant_decay_is_the_published_one(step, rate):
    assert learning_rate(step, STABLE) == pytest.approx(rate, rel=1e-6, abs=1e-15)


def test_two_phases_are_one_schedule_cut_in_two():
    """V-JEPA 2: a run that ends at the peak, and a cooldown that begins there."""
    first = STABLE.model_copy(update={"total_samples": 90_000})
    second = STABLE.model_copy(update={"total_samples": 4_500, "warmup_samples": 0, "constant_samples": 0})
    for step in (1, 3_000, 4_500, 60_000, 90_000):
        assert learning_rate(step, first) == learning_rate(step, STABLE)
    for step in (1, 1_000, 4_500):
        assert learning_rate(step, second) == pytest.approx(learning_rate(90_000 + step, STABLE), rel=1e-12)


def test_no_phase_is_longer_than_the_run():
    with pytest.raises(ValueError, match="constant_samples 95000 are more than total_samples 94500"):
        AdamWConfig(**STABLE.model_dump() | {"constant_samples": 95_000})


BARLOW = LARSConfig(
    name="lars",
    batch_size_global=2048,
    total_samples=2048 * 100,
    warmup_samples=2048 * 10,
    lr=0.2,
    lr_rule="linear",
    lr_biases=0.0048,
)


def test_the_linear_rule_multiplies_the_whole_curve():
    """Warm-up from 0 over ten steps to 0.2 * 2048/256, then a cosine to 0."""
    said = BARLOW.model_copy(update={"lr": 1.6, "lr_rule": "absolute"})
    for step in (1, 5, 10, 55, 99, 100):
        assert learning_rate(step, BARLOW) == pytest.approx(learning_rate(step, said), rel=1e-12, abs=1e-18)
    assert [learning_rate(step, BARLOW) for step in (1, 10, 55, 100)] == pytest.approx([0.16, 1.6, 0.8, 0.0], abs=1e-12)
    ends = BARLOW.model_copy(update={"start_lr": 0.01, "final_lr": 0.001})
    assert learning_rate(0, ends) == pytest.approx(0.08) and learning_rate(100, ends) == pytest.approx(0.008)


def test_the_root_rule():
    config = AdamWConfig(batch_size_global=1024, total_samples=4096, lr=1e-3, lr_rule="sqrt")
    assert config.lr_factor == 2 and learning_rate(0, config) == pytest.approx(2e-3)


def test_a_decay_without_an_end_stays():
    assert {weight_decay(step, BARLOW) for step in (1, 50, 100)} == {1e-6}
    falling = BARLOW.model_copy(update={"final_weight_decay": 0.0})
    assert weight_decay(100, falling) == 0


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (AdamWConfig(total_samples=4096), "peak lr 0.001"),
        (AdamWConfig(total_samples=4096, lr_rule="sqrt"), "peak lr 0.001 x sqrt(2048/256) = 0.002828"),
        (SGDConfig(name="sgd", total_samples=4096, lr=0.05, lr_rule="linear"), "peak lr 0.05 x 2048/256 = 0.4"),
        (BARLOW, "peak lr 0.2 x 2048/256 = 1.6, of biases and norms 0.0048 x 2048/256 = 0.0384"),
    ],
)
def test_the_rate_says_how_it_came_about(config, says):
    assert config.describe_lr() == says


def test_clipping_begins_with_the_step_after_the_warm_up():
    config = AdamWConfig(batch_size_global=8, total_samples=80, warmup_samples=24, clip_norm=10.0, clip_after_warmup=True)
    assert [config.clip_norm_at(step) for step in range(1, 6)] == [None, None, None, 10.0, 10.0]
    always = config.model_copy(update={"clip_after_warmup": False})
    assert {always.clip_norm_at(step) for step in range(1, 6)} == {10.0}
    assert AdamWConfig(total_samples=4096).clip_norm_at(1) is None
