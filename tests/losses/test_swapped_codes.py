"""Sinkhorn's codes are SwAV's, for scores of any size; views predict the codes of the others."""

import math

import pytest
import torch

from jepa_pipeline.losses.swapped import sinkhorn, swapped_prediction


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def definition(scores, epsilon=0.05, iterations=3):
    q = torch.exp(scores / epsilon).T
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(dim=1, keepdim=True) / q.shape[0]
        q = q / q.sum(dim=0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


def use(codes):
    """How much each prototype is used, 1 on average."""
    return codes.sum(dim=0) * codes.shape[1] / codes.shape[0]


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("shape", [(64, 8), (8, 64), (5, 1), (1, 5)])
def test_codes_are_those_of_the_definition(shape, iterations):
    scores = normal(*shape).tanh()
    codes = sinkhorn(scores, iterations=iterations)
    torch.testing.assert_close(codes, definition(scores, iterations=iterations), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(shape[0], dtype=torch.float64))
    torch.testing.assert_close(sinkhorn(scores.float(), iterations=iterations), codes.float(), rtol=1e-4, atol=1e-6)


def test_three_iterations_do_not_equalize_use_and_many_do():
    scores = normal(64, 8).tanh() + torch.linspace(0, 0.3, 8)
    assert use(sinkhorn(scores)).max() > 1.02
    torch.testing.assert_close(use(sinkhorn(scores, iterations=1000)), torch.ones(8, dtype=torch.float64), rtol=1e-6, atol=0)


def test_without_iterations_nothing_equalizes_use():
    scores = normal(64, 8).tanh() + torch.tensor([2.0] + [0] * 7)
    codes = sinkhorn(scores, iterations=0)
    torch.testing.assert_close(codes, torch.softmax(scores / 0.05, dim=1))
    assert use(codes)[0] > 7 > 2 > use(sinkhorn(scores))[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_no_score_is_too_large(size, dtype):
    """exp(1e4 / 0.05) is not a number; in fp32 the exponent itself, 2e5, is known to 0.016."""
    scores = (size * normal(16, 4)).to(dtype)
    codes = sinkhorn(scores)
    assert codes.isfinite().all() and codes.dtype == torch.float32
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(16))
    torch.testing.assert_close(codes, sinkhorn(scores.double()), rtol=0, atol=0.05, check_dtype=False)


def test_a_constant_offset_of_all_scores_changes_nothing():
    scores = normal(16, 4).tanh()
    torch.testing.assert_close(sinkhorn(scores + 100), sinkhorn(scores))


def test_equal_scores_have_uniform_codes():
    assert torch.equal(sinkhorn(torch.zeros(6, 4)), torch.full((6, 4), 0.25))


def test_no_view_predicts_its_own_code():
    codes = sinkhorn(normal(6, 4).tanh())[None]
    right = 0.1 * codes.log()
    own_right = torch.cat([right, torch.zeros(2, 6, 4)])
    assert swapped_prediction(own_right, codes)["swapped"] == pytest.approx(math.log(4))
    entropy = float(-(codes * codes.log()).sum(-1).mean())
    others_right = torch.cat([normal(1, 6, 4), right, right])
    assert swapped_prediction(others_right, codes)["swapped"] == pytest.approx(entropy)


def test_small_views_only_predict():
    """The order of the views without codes does not matter, nor that of those with."""
    scores = normal(4, 6, 3).tanh()
    codes = torch.stack([sinkhorn(view) for view in scores[:2]])
    loss = swapped_prediction(scores, codes)
    torch.testing.assert_close(swapped_prediction(torch.cat([scores[:2], scores[2:].flip(0)]), codes), loss)
    torch.testing.assert_close(swapped_prediction(torch.cat([scores[:2].flip(0), scores[2:]]), codes.flip(0)), loss)


def test_without_equalizing_collapse_is_free():
    """All samples on one prototype: no loss with a plain softmax, the largest with Sinkhorn's codes."""
    scores = torch.tensor([1.0, -1, -1, -1]).expand(2, 32, 4)

    def loss(iterations):
        return swapped_prediction(scores, torch.stack([sinkhorn(view, iterations=iterations) for view in scores]))["swapped"]

    assert loss(0) < 1e-6
    assert loss(3) > math.log(4)
