"""VICReg and Barlow Twins: their minima, and the changes that they ignore."""

import pytest
import torch
from torch.nn import functional as F

from jepa_pipeline.losses.arithmetic import without_diagonal
from jepa_pipeline.losses.barlow_twins import barlow_twins
from jepa_pipeline.losses.vicreg import covariance, regularize, variance_hinge, vicreg


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_without_diagonal_returns_all_other_entries_in_order(size):
    matrix = normal(size, size)
    others = [matrix[i, j] for i in range(size) for j in range(size) if i != j]
    assert without_diagonal(matrix).flatten().tolist() == others
    assert without_diagonal(matrix).untyped_storage().data_ptr() == matrix.untyped_storage().data_ptr()
    assert torch.equal(without_diagonal(matrix.T).sum(), without_diagonal(matrix.T.contiguous()).sum())


def test_variance_and_covariance_ignore_a_shift():
    x = 0.5 * normal(50, 6)
    moved = x + torch.linspace(-9, 9, 6)
    torch.testing.assert_close(variance_hinge(moved), variance_hinge(x))
    torch.testing.assert_close(covariance(moved), covariance(x))


def test_the_hinge_is_zero_from_a_standard_deviation_of_one():
    x = normal(50, 6)
    x = (x - x.mean(0)) / x.std(0)
    assert variance_hinge(x) == 0
    assert variance_hinge(7 * x) == 0
    assert variance_hinge(0.5 * x) == pytest.approx(0.5, abs=1e-3)
    assert variance_hinge(0 * x) == pytest.approx(0.99)


def test_copied_dimensions_have_covariance_and_orthogonal_ones_none():
    x = torch.linalg.qr(normal(50, 4) - normal(50, 4).mean(0))[0] * 7  # orthogonal columns, centered: variance 1
    assert covariance(x) == pytest.approx(0, abs=1e-20)
    assert covariance(torch.cat([x, x], dim=1)) == pytest.approx(1, abs=1e-12)  # each dimension has one copy


def test_small_covariances_are_exact_beside_large_variances():
    """Subtracting the diagonal from the sum of all squares would lose them in fp32."""
    x = torch.linalg.qr(normal(512, 64) - normal(512, 64).mean(0))[0] * 1e3 + 0.01 * normal(512, 64, seed=1)
    torch.testing.assert_close(covariance(x.float()), covariance(x), rtol=1e-3, atol=0, check_dtype=False)
    c = torch.cov(x.float().T)
    subtracted = (c.square().sum() - c.diagonal().square().sum()) / 64
    assert (subtracted - covariance(x)).abs() > 0.5 * covariance(x)


def test_vicreg_is_invariance_plus_regularizer():
    views = 0.5 * normal(2, 20, 4)
    terms = vicreg(views, 2.0, 3.0, 4.0)
    assert terms.pop("invariance") == pytest.approx(2 * float(F.mse_loss(*views)))
    torch.testing.assert_close(terms, regularize([*views], 3.0, 4.0))
    same = vicreg(views[:1].expand(3, -1, -1))
    assert same["invariance"] == 0
    assert same["covariance"] == pytest.approx(3 * float(covariance(views[0])))
    assert same["variance"] == pytest.approx(25 * float(variance_hinge(views[0])))


def test_samples_of_different_sizes_are_regularized_together():
    a, b = 0.5 * normal(20, 4), 0.2 * normal(7, 4)
    terms = regularize([a, b], 1.0, 1.0)
    assert terms["variance"] == (variance_hinge(a) + variance_hinge(b)) / 2
    assert terms["covariance"] == covariance(a) + covariance(b)


def test_barlow_twins_ignores_scale_and_shift_of_a_dimension():
    views = normal(2, 40, 5)
    moved = views * torch.tensor([3.0, 100, -20, 7, -5]) + torch.linspace(-9, 9, 5)
    torch.testing.assert_close(barlow_twins(moved), barlow_twins(views), rtol=1e-3, atol=1e-4)  # up to the eps


def test_barlow_twins_is_least_for_equal_views_without_redundancy():
    x = torch.linalg.qr(normal(40, 5) - normal(40, 5).mean(0))[0].expand(2, -1, -1) * 100
    assert sum(barlow_twins(x).values()) < 1e-6
    assert barlow_twins(x * torch.tensor([1, -1])[:, None, None])["on_diagonal"] == pytest.approx(4 * 5, rel=1e-4)
    assert barlow_twins(x[..., :1].expand(-1, -1, 5), off_diagonal=0.1)["off_diagonal"] == pytest.approx(0.1 * 20, rel=1e-4)
