"""Wilson's interval, against published values and its own definition."""

import math

import pytest

from jepa_pipeline.results.confidence_interval import Z95, difference_interval, mean_interval, wilson_interval


def test_known_values():
    assert wilson_interval(5, 10) == pytest.approx((0.23659, 0.76341), abs=1e-5)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert wilson_interval(10, 10) == pytest.approx((0.72247, 1.0), abs=1e-5)


def test_the_ends_of_the_interval_satisfy_its_definition():
    for end in wilson_interval(843, 1000):
        assert abs(0.843 - end) / math.sqrt(end * (1 - end) / 1000) == pytest.approx(Z95)


def test_means_have_students_intervals():
    """The reach of three values with deviation 1: his 4.303 over the root of 3."""
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-4)
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5)
    with pytest.raises(ValueError, match="at least two"):
        mean_interval([0.5])


def test_differences_have_newcombes_intervals():
    """Those he published for these pairs (1998, table II, method 10)."""
    published = {
        ((56, 70), (48, 80)): (0.0524, 0.3339),
        ((9, 10), (3, 10)): (0.1705, 0.8090),
        ((10, 10), (0, 10)): (0.6075, 1.0),
        ((0, 10), (0, 10)): (-0.2775, 0.2775),
    }
    for pair, interval in published.items():
        assert difference_interval(*pair) == pytest.approx(interval, abs=1e-4)


def test_no_samples_have_no_interval():
    with pytest.raises(ValueError, match="0 of 0"):
        wilson_interval(0, 0)
