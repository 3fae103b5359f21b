"""Causal masks: the encoder sees the past and nothing of the future."""

import numpy as np
import pytest
import torch

from jepa_pipeline.config.video_masks import CausalConfig
from jepa_pipeline.masks.causal import Causal

GRID = (8, 4, 6)


def generators(count, start=0):
    return [np.random.default_rng(n) for n in range(start, start + count)]


@pytest.mark.parametrize(("share", "past"), [(0.01, 1), (0.3, 2), (0.5, 4), (0.99, 7)])
def test_context_precedes_target(share, past):
    masks = Causal(CausalConfig(name="causal", context_time=share), GRID)(generators(5), 0)
    assert masks.context.tolist() == [list(range(past * 24))] * 5
    assert masks.targets.tolist() == [[list(range(past * 24, 8 * 24))]] * 5


def test_a_share_is_kept_everywhere_alike():
    masks = Causal(CausalConfig(name="causal", context_keep=0.25, target_keep=0.5), GRID)(generators(2000), 0)
    assert masks.context.shape == (2000, 24) and masks.targets.shape == (2000, 1, 48)
    assert masks.context.max() < 96 <= masks.targets.min()
    for tokens in masks:
        assert (tokens.diff() > 0).all()
    use = torch.bincount(torch.cat([masks.context.flatten(), masks.targets.flatten()]), minlength=192) / 2000
    expected = torch.tensor([0.25, 0.5]).repeat_interleave(96)
    assert (use - expected).abs().max() < 0.05  # five deviations


def test_masks_of_a_clip_do_not_depend_on_its_batch():
    sampler = Causal(CausalConfig(name="causal", context_keep=0.5, target_keep=0.5), GRID)
    whole, alone = sampler(generators(9), 0), sampler(generators(1, start=7), 3)
    assert torch.equal(whole.context[7], alone.context[0]) and torch.equal(whole.targets[7], alone.targets[0])


def test_a_clip_of_one_step_has_no_future():
    CausalConfig(name="causal").check_grid((2, 4, 4))
    with pytest.raises(ValueError, match=r"two time steps or more, but clips have 1: raise encoder\.frames"):
        CausalConfig(name="causal").check_grid((1, 14, 14))
