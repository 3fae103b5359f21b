"""AUROC and margins, against scikit-learn and known cases; the interval against its own definition and by trial."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from jepa_pipeline.probes.auroc import auroc, auroc_interval, margin, separate
from jepa_pipeline.results.confidence_interval import Z95, wilson_interval


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_auroc_equals_scikit_learns_with_and_without_ties(decimals):
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


def test_the_margin_is_in_standard_deviations():
    true = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert margin(true, true + 2 * true.std()) == pytest.approx(2, abs=1e-5)
    assert margin(true, true - true.std()) == pytest.approx(-1, abs=1e-5)


def test_a_samples_own_alternative_shows_what_all_pairs_do_not():
    """Samples differ much more from each other than from their alternatives."""
    true = 100 * torch.randn(200, generator=torch.Generator().manual_seed(0))
    found = separate(true, true + 0.1)
    assert found.ci95[0] < 0.5 < found.ci95[1] and found.own == 1 and found.own_ci95 == wilson_interval(200, 200)


def normals(generator, count, spread=1.0, paired=0.0, shift=0.0):
    """True and alternative energies, and the area under the ROC curve of their kinds."""
    shared, first, second = generator.normal(size=(3, count))
    apart = math.sqrt(1 - paired**2)
    true, other = paired * shared + apart * first, spread * (paired * shared + apart * second) + shift
    area = 0.5 * (1 + math.erf(shift / math.sqrt(2 * (1 + spread**2))))
    return torch.from_numpy(true), torch.from_numpy(other), area


@pytest.mark.parametrize("count", [10, 128])
@pytest.mark.parametrize("shift", [0.0, 0.7, 3.4])
@pytest.mark.parametrize(
    ("spread", "paired"),
    [
        (1.0, 0.0),
        (6.0, 0.6),
        *(pytest.param(*kind, marks=pytest.mark.slow) for kind in ((10.0, 0.0), (0.1, 0.0), (1.0, 0.9), (1.0, -0.9))),
    ],
)
def test_the_interval_has_its_nominal_coverage(spread, paired, shift, count):
    """Up to the noise of the trials; for ten samples nearly."""
    generator, hits = np.random.default_rng(0), 0
    for _ in range(600):
        true, other, area = normals(generator, count, spread, paired, shift * math.hypot(1, spread) / math.sqrt(2))
        low, high = auroc_interval(true, other)
        hits += low <= area <= high
    assert hits / 600 >= (0.93 if count > 10 else 0.905)


def test_the_interval_is_narrower_for_correlated_energies():
    widths = []
    for paired in (0.0, 0.9):
        true, other, _ = normals(np.random.default_rng(0), 200, paired=paired, shift=0.7)
        low, high = auroc_interval(true, other)
        widths.append(high - low)
    assert widths[1] < 0.7 * widths[0]


def test_the_interval_is_delongs_for_many_samples():
    true, other, _ = normals(np.random.default_rng(0), 2000, spread=3.0, shift=1.0)
    right = ((other[None] > true[:, None]).double() - 0.5).numpy()
    variance = (right.mean(0).var() + right.mean(1).var() + 2 * np.cov(right.mean(0), right.mean(1))[0, 1]) / 2000
    low, high = auroc_interval(true, other)
    assert high - low == pytest.approx(2 * Z95 * math.sqrt(variance), rel=0.01)
    assert (low + high) / 2 == pytest.approx(auroc(true, other), abs=1e-3)


def test_the_interval_of_perfect_separation_has_a_width_and_stays_within_0_and_1():
    true = torch.arange(20.0)
    assert auroc_interval(true, true + 20) == pytest.approx(wilson_interval(20, 20))
    assert auroc_interval(true + 20, true) == pytest.approx(wilson_interval(0, 20))
    assert auroc_interval(torch.ones(2), torch.ones(2))[0] < 0.2
    low, high = auroc_interval(torch.arange(40.0), torch.arange(40.0) + 0.1)
    assert low < 0.5 < high < 1
