"""The metrics distinguish collapsed representations from healthy ones."""

import time

import pytest
import torch
import torch.nn.functional as F

from jepa_pipeline.probes.collapse_metrics import collapse_metrics, constant_loss, mean_cosine, predictor_r2, rankme


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_isotropic_vectors_are_healthy():
    meters = collapse_metrics(normal(4096, 32))
    assert meters["std_mean"] == pytest.approx(1, abs=0.02)
    assert meters["std_min"] > 0.95
    assert meters["cosine"].abs() < 0.01
    assert meters["rankme"] > 31.5
    assert all(value.shape == () for value in meters.values())


@pytest.mark.parametrize("vector", [torch.zeros(16), torch.linspace(1, 2, 16)])
def test_a_constant_is_collapsed(vector):
    meters = collapse_metrics(vector.expand(200, 16))
    assert meters["std_mean"] < 1e-6
    assert meters["rankme"] == pytest.approx(1, abs=1e-3)
    assert meters["cosine"] == pytest.approx(float(vector.any()), abs=1e-5)


def test_mean_cosine_is_that_of_all_pairs():
    vectors = normal(37, 5) + 0.5
    pairs = F.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
    assert mean_cosine(vectors) == pytest.approx(float((pairs.sum() - 37) / (37 * 36)), abs=1e-5)


@pytest.mark.parametrize("shape", [(60, 20), (20, 60)])
def test_rankme_of_a_known_spectrum(shape):
    left, right = torch.linalg.qr(normal(shape[0], 8))[0], torch.linalg.qr(normal(shape[1], 8, seed=1))[0]
    assert rankme(3 * left @ right.T) == pytest.approx(8, rel=1e-3)
    share = torch.tensor([0.5, 0.25, 0.125, 0.125])
    expected = torch.exp(-(share * share.log()).sum())
    assert rankme(left[:, :4] * share @ right[:, :4].T) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("heavy", [False, True])
def test_no_constant_has_a_lower_loss(heavy):
    targets = normal(301, 4).pow(3) * 5 if heavy else normal(301, 4) + torch.arange(4)
    grid = torch.linspace(float(targets.min()), float(targets.max()), 20001)
    losses = [
        F.smooth_l1_loss(column.expand(20001, -1), grid[:, None].expand(-1, 301), reduction="none").mean(1) for column in targets.T
    ]
    best = torch.stack([loss.min() for loss in losses]).mean()
    assert constant_loss(targets) == pytest.approx(float(best), abs=1e-5)
    assert constant_loss(targets) <= F.smooth_l1_loss(targets, targets.mean(0).expand_as(targets)) + 1e-7


def test_r2_is_zero_for_the_constant_and_one_for_the_truth():
    constant = constant_loss(normal(100, 3))
    assert predictor_r2(constant, constant) == 0
    assert predictor_r2(torch.zeros(()), constant) == 1


def test_the_largest_buffer_is_measured_quickly():
    vectors = normal(2048, 1408)

    def seconds(measure):
        started = time.process_time()
        measure(vectors)
        return time.process_time() - started

    rounds = [(seconds(lambda v: (collapse_metrics(v), constant_loss(v))), seconds(torch.linalg.svdvals)) for _ in range(3)]
    assert min(ours / singular_values for ours, singular_values in rounds) < 1.5
