"""AUROC and margins, against scikit-learn and known cases; the interval against its own definition and by trial."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from jepa_pipeline.probes.interval import Z95, wilson_interval
from jepa_pipeline.probes.separation import auroc, auroc_interval, margin, separate


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_it_is_scikit_learns_with_ties_and_without(decimals):
    generator = np.random.default_rng(decimals)
    for shift in (-1.0, 0.0, 0.5, 3.0):
        true, other = generator.normal(size=83).round(decimals), (generator.normal(size=83) + shift).round(decimals)
        expected = roc_auc_score([0] * 83 + [1] * 83, [*true, *other])
        assert auroc(torch.from_numpy(true), torch.from_numpy(other)) == pytest.approx(expected, abs=1e-12)


def test_known_cases():
    low, high = torch.arange(5.0), torch.arange(5.0) + 5
    assert (auroc(low, high), auroc(high, low), auroc(low, low)) == (1.0, 0.0, 0.5)
    assert auroc(torch.ones(4), torch.ones(4)) == 0.5
    found = separate(torch.ones(4), torch.ones(4))
    assert (found.auroc, found.margin, found.own) == (0.5, None, 0.5) and found.ci95[0] < 0.5 < found.ci95[1]


def test_the_margin_is_in_deviations():
    true = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert margin(true, true + 2 * true.std()) == pytest.approx(2, abs=1e-5)
    assert margin(true, true - true.std()) == pytest.approx(-1, abs=1e-5)


def test_a_samples_own_alternative_shows_what_all_pairs_do_not():
    """Samples differ much more than the truth does from its alternative."""
    true = 100 * torch.randn(200, generator=torch.Generator().manual_seed(0))
    found = separate(true, true + 0.1)
    assert found.ci95[0] < 0.5 < found.ci95[1] and found.own == 1 and found.own_ci95 == wilson_interval(200, 200)


@pytest.mark.parametrize("area", [0.3, 0.5, 0.8, 0.99])
def test_the_ends_are_just_compatible_with_the_area(area):
    for end in auroc_interval(area, 40):
        first, second = end / (2 - end), 2 * end**2 / (1 + end)  # Hanley and McNeil 1982
        variance = (end * (1 - end) + 39 * (first - end**2) + 39 * (second - end**2)) / 40**2
        assert abs(area - end) / math.sqrt(variance) == pytest.approx(Z95, abs=1e-6)


def test_it_is_no_point_where_all_are_told_apart():
    low, high = auroc_interval(1.0, 20)
    assert high == 1.0 and 0.85 < low < 0.95
    assert auroc_interval(0.0, 20) == pytest.approx((1 - high, 1 - low))


def test_it_covers_the_true_area_about_as_often_as_it_says():
    generator, hits = np.random.default_rng(0), 0
    area = 0.5 * (1 + math.erf(0.7 / 2))  # of two normals with means 0.7 apart
    for _ in range(400):
        true, other = torch.from_numpy(generator.normal([[0], [0.7]], size=(2, 30)))
        low, high = separate(true, other).ci95
        hits += low <= area <= high
    assert 0.92 < hits / 400 <= 0.99
