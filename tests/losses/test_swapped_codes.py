"""Sinkhorn's codes equal SwAV's definition for scores of any size; each view predicts the codes of the others."""

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


def usage(codes):
    """Return how much each prototype is used, 1 on average."""
    return codes.sum(dim=0) * codes.shape[1] / codes.shape[0]


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("shape", [(64, 8), (8, 64), (5, 1), (1, 5)])
def test_codes_equal_the_definition(shape, iterations):
    scores = normal(*shape).tanh()
    codes = sinkhorn(scores, iterations=iterations)
    torch.testing.assert_close(codes, definition(scores, iterations=iterations), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(shape[0], dtype=torch.float64))
    torch.testing.assert_close(sinkhorn(scores.float(), iterations=iterations), codes.float(), rtol=1e-4, atol=1e-6)


def test_many_iterations_equalize_usage_and_three_do_not():
    scores = normal(64, 8).tanh() + torch.linspace(0, 0.3, 8)
    assert usage(sinkhorn(scores)).max() > 1.02
    torch.testing.assert_close(usage(sinkhorn(scores, iterations=1000)), torch.ones(8, dtype=torch.float64), rtol=1e-6, atol=0)


def test_without_iterations_usage_is_not_equalized():
    scores = normal(64, 8).tanh() + torch.tensor([2.0] + [0] * 7)
    codes = sinkhorn(scores, iterations=0)
    torch.testing.assert_close(codes, torch.softmax(scores / 0.05, dim=1))
    assert usage(codes)[0] > 7 > 2 > usage(sinkhorn(scores))[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_no_score_is_too_large(size, dtype):
    """exp(1e4 / 0.05) overflows; in fp32 the exponent itself, 2e5, has a precision of 0.016."""
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
    perfect = 0.1 * codes.log()
    own_code_predicted = torch.cat([perfect, torch.zeros(2, 6, 4)])
    assert swapped_prediction(own_code_predicted, codes)["swapped"] == pytest.approx(math.log(4))
    entropy = float(-(codes * codes.log()).sum(-1).mean())
    other_codes_predicted = torch.cat([normal(1, 6, 4), perfect, perfect])
    assert swapped_prediction(other_codes_predicted, codes)["swapped"] == pytest.approx(entropy)


def test_views_without_codes_only_predict():
    """Views without codes can change places, and so can those with codes."""
    scores = normal(4, 6, 3).tanh()
    codes = torch.stack([sinkhorn(view) for view in scores[:2]])
    loss = swapped_prediction(scores, codes)
    torch.testing.assert_close(swapped_prediction(torch.cat([scores[:2], scores[2:].flip(0)]), codes), loss)
    torch.testing.assert_close(swapped_prediction(torch.cat([scores[:2].flip(0), scores[2:]]), codes.flip(0)), loss)


def test_without_equalization_collapse_has_no_loss():
    """If all samples have one prototype, the loss is zero with a softmax and large with Sinkhorn's codes."""
    scores = torch.tensor([1.0, -1, -1, -1]).expand(2, 32, 4)

    def loss(iterations):
        return swapped_prediction(scores, torch.stack([sinkhorn(view, iterations=iterations) for view in scores]))["swapped"]

    assert loss(0) < 1e-6
    assert loss(3) > math.log(4)
