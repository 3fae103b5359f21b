"""Errors against the horizon: their baselines, and conclusions beyond chance only."""

import pytest
import torch
import torch.nn.functional as F

from jepa_pipeline.probes.rollout_error import (
    MAX_VALUES,
    RolloutErrors,
    best_constant,
    comparison_sentences,
    constant_errors,
    copy_last_errors,
    first_better_horizon,
    frames_ahead,
    plot_horizons,
    subsample_positions,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


ERRORS = {"l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}


@pytest.mark.parametrize("distance", ["l1", "smooth_l1"])
@pytest.mark.parametrize("samples", [500, 501])
def test_no_constant_of_a_position_has_a_lower_error(distance, samples):
    targets = random(samples, 3, 4) ** 3 + torch.tensor([0.0, 5, -2])[:, None]
    best = best_constant(targets, distance)

    def errors(constant):
        return ERRORS[distance](targets, constant.expand_as(targets), reduction="none").mean(0)

    others = (torch.zeros(3, 4), targets.mean(0), *(targets.median(0).values + step for step in (-0.1, 0.1)))
    assert all((errors(other) >= errors(best) - 1e-6).all() for other in others)


@pytest.mark.parametrize("distance", ["l1", "smooth_l1"])
def test_a_predictor_that_knows_the_position_alone_equals_the_best_constant(distance):
    """Predicting the mean of each position is as good as the best constant, however positions differ."""
    place, noise = 10 * random(6, 8), random(1000, 6, 8, seed=1)
    errors = constant_errors(place + noise, distance)
    position = ERRORS[distance](place.expand_as(noise), place + noise, reduction="none").mean(2)
    assert float(position.mean() / errors.mean()) == pytest.approx(1, abs=0.01)
    assert float(errors.mean()) == pytest.approx(float(constant_errors(noise, distance).mean()), rel=1e-4)


def test_no_constant_was_fitted_to_the_sample_it_is_compared_with():
    targets = random(9, 2, 3)
    before = constant_errors(targets, "l1")
    for sample in range(9):
        changed = targets.clone()
        changed[sample] += 100
        after = constant_errors(changed, "l1")
        same_half = torch.arange(9) % 2 == sample % 2
        same_half[sample] = False
        assert torch.equal(after[same_half], before[same_half])
        best = best_constant(targets[1 - sample % 2 :: 2], "l1")
        assert torch.allclose(after[sample], (changed[sample] - best).abs().mean(1), atol=1e-4)


def test_the_error_of_copying_is_zero_without_motion_and_grows_with_it():
    still = random(2, 1, 3, 3, 8).expand(2, 6, 3, 3, 8)
    assert copy_last_errors(still, 2, "l1").abs().max() == 0
    moving = still + torch.arange(6.0).view(1, 6, 1, 1, 1)
    assert torch.allclose(copy_last_errors(moving, 2, "l1"), torch.tensor([1.0, 2, 3, 4]).expand(2, 4), atol=1e-5)
    assert torch.allclose(copy_last_errors(moving, 2, "smooth_l1"), torch.tensor([0.5, 1.5, 2.5, 3.5]).expand(2, 4), atol=1e-5)


def test_positions_are_evenly_spaced_within_the_limit():
    assert subsample_positions(16, 10).tolist() == list(range(16))
    few = subsample_positions(196, MAX_VALUES // 14)
    assert few.tolist() == list(range(7, 196, 14))
    assert subsample_positions(196, 10 * MAX_VALUES).tolist() == [98]


def test_a_better_horizon_is_better_beyond_chance_from_there_on():
    noise = random(100, 4)
    assert first_better_horizon(noise - torch.tensor([0.0, 2, 2, 2])) == 1
    assert first_better_horizon(noise - torch.tensor([2.0, 2, 0, 2])) == 3
    assert first_better_horizon(noise - 2) == 0
    assert first_better_horizon(noise) is None and first_better_horizon(noise + 2) is None


def curve(error, copied, frames):
    return RolloutErrors(error.double(), copied.double(), torch.ones(error.shape[1]).double(), frames)


def test_sentences_name_the_first_frame():
    noise = 0.01 * random(50, 4)
    copied = torch.tensor([0.3, 0.4, 0.6, 0.8]).expand(50, 4)
    first = curve(noise + 0.5, copied, 2)
    second = curve(noise[:, :2] + torch.tensor([0.6, 0.4]), copied[:, :2] - 0.1, 4)
    assert comparison_sentences([first, second]) == [
        "level 1 predicts better than copying the last past step from 5 frames ahead on (95 %)",
        "level 2 has no horizon from which on it predicts better than copying the last past step beyond chance",
        "level 2 predicts better than level 1, each relative to the error of the best constant of each position, from 5 frames ahead on (95 %)",
    ]
    assert "at every horizon" in comparison_sentences([curve(noise, copied, 2)])[0]


def test_levels_are_plotted_over_their_frames():
    fine, coarse = (curve(random(9, steps) + 3, random(9, steps) + 3, 8 // steps) for steps in (4, 2))
    assert frames_ahead(fine) == [1.5, 3.5, 5.5, 7.5] and frames_ahead(coarse) == [2.5, 6.5]
    lines = plot_horizons([fine, coarse], "drawn").axes[0].get_lines()
    assert [line.get_label() for line in lines[:4]] == ["level 1", "level 1, copy last", "level 2", "level 2, copy last"]
    assert torch.allclose(torch.as_tensor(lines[2].get_ydata()), coarse.relative.mean(0))
