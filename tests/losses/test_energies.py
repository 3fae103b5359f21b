"""Contrastive losses are least if positive pairs agree and negative ones do not; only violations have a gradient."""

import math

import pytest
import torch

from jepa_pipeline.losses.contrastive import energies, info_nce, nt_xent, square_square
from jepa_pipeline.losses.prediction import cosine


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_energies_lie_between_zero_and_four_and_ignore_lengths():
    x, y = normal(9, 4), normal(9, 4, seed=1)
    matrix = energies(x, y)
    torch.testing.assert_close(energies(5 * x, y / 3), matrix)
    torch.testing.assert_close(energies(y, x), matrix.T)
    torch.testing.assert_close(energies(x, x).diagonal(), torch.zeros(9, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(energies(x, -x).diagonal(), torch.full((9,), 4.0, dtype=torch.float64))
    torch.testing.assert_close(matrix.diagonal().mean(), cosine(x, y)["cosine"])


LOSSES = {
    "nt_xent": lambda x, y: nt_xent(torch.stack([x, y])),
    "info_nce": lambda x, y: info_nce(energies(x, y)),
    "square_square": lambda x, y: square_square(energies(x, y)),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_a_loss_is_least_if_positives_agree_and_negatives_do_not(loss):
    x = torch.eye(8, dtype=torch.float64)
    aligned = sum(loss(x, x).values())
    assert aligned < sum(loss(x, x + 0.2 * normal(8, 8)).values())
    assert aligned < sum(loss(x, x.roll(1, 0)).values())
    assert aligned < sum(loss(x + 1, x + 1).values())


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_a_gradient_step_brings_positives_together(loss):
    x, y = normal(8, 4).requires_grad_(), normal(8, 4, seed=1)
    sum(loss(x, y).values()).backward()
    moved = energies((x - 0.01 * x.grad).detach(), y) - energies(x, y).detach()
    assert moved.diagonal().mean() < 0
    assert moved.diagonal().mean() < moved.mean()


def test_equal_embeddings_have_the_loss_of_a_guess():
    same = torch.ones(2, 8, 4)
    assert nt_xent(same)["nt_xent"] == pytest.approx(math.log(15), abs=1e-5)
    assert info_nce(energies(*same))["info_nce"] == pytest.approx(math.log(8), abs=1e-5)


def test_nt_xent_has_no_sample_as_its_own_negative():
    """With two orthogonal images, each seen twice the same, exactly two negatives are left."""
    views = torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    assert nt_xent(views, temperature=0.5)["nt_xent"] == pytest.approx(math.log(1 + 2 * math.exp(-2)))


def test_info_nce_is_symmetric():
    matrix = energies(normal(6, 4), normal(6, 4, seed=1))
    torch.testing.assert_close(info_nce(matrix.T), info_nce(matrix))
    torch.testing.assert_close(info_nce(matrix + 7), info_nce(matrix))


def test_negatives_beyond_the_margin_have_no_loss():
    matrix = 2 - 2 * torch.eye(5)
    assert square_square(matrix, margin=2.0) == {"attract": 0, "repel": 0}
    assert square_square(matrix, margin=3.0)["repel"] == 1
    assert square_square(matrix + 3, margin=2.0)["attract"] == 9


def test_only_violations_have_a_gradient():
    matrix = torch.tensor([[0.5, 0.1, 9.0], [9.0, 0.0, 9.0], [9.0, 9.0, 0.0]], requires_grad=True)
    square_square(matrix)["repel"].backward()
    assert matrix.grad.count_nonzero() == 1 and matrix.grad[0, 1] < 0
