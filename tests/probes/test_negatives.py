"""Alternatives to the truth: the visible part is unchanged bit for bit, the rest is never the truth by accident."""

import numpy as np
import pytest
import torch

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.hjepa import HJepaConfig
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.masks.build import build_future_samplers
from jepa_pipeline.probes.negatives import (
    candidates,
    derangement,
    is_unchanged,
    patchify,
    replace_future,
    replace_masked,
    roll_samples,
    shuffle_masked,
    split_time,
    unpatchify,
)


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def clips():
    return torch.randint(0, 256, (5, 3, 8, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def orders():
    return torch.from_numpy(np.stack([derangement(5, generator(seed)) for seed in range(5)]))


def test_the_past_is_unchanged_and_the_future_is_the_candidates(clips, orders):
    found = {name: replace_future(name, clips, 3, orders) for name in candidates(5)}
    assert list(found) == ["true", "other", "shuffled", "reversed", "frozen"]
    for name, one in found.items():
        assert one.dtype == clips.dtype and one.shape == clips.shape and torch.equal(one[:, :, :3], clips[:, :, :3])
        assert torch.equal(one, clips) == (name == "true")
    for row in range(5):
        future = clips[row, :, 3:]
        assert torch.equal(found["other"][row, :, 3:], clips[row - 1, :, 3:])
        assert torch.equal(found["shuffled"][row, :, 3:], future[:, orders[row]])
        assert torch.equal(found["reversed"][row, :, 3:], future.flip(1))
        assert all(torch.equal(frame, clips[row, :, 2]) for frame in found["frozen"][row, :, 3:].unbind(1))


def test_one_frame_has_no_order_and_two_only_one_other():
    assert candidates(1) == ("true", "other", "frozen")
    assert candidates(2) == ("true", "other", "reversed", "frozen")
    assert candidates(3) == ("true", "other", "shuffled", "reversed", "frozen")


@pytest.mark.parametrize("future", [2, 3, 4, 7])
def test_reversal_leaves_only_the_middle_of_an_odd_number_of_frames_unchanged(future):
    clips = torch.arange(2 * (1 + future)).view(2, 1, -1, 1, 1)
    orders = torch.arange(future).expand(2, -1)
    for name in candidates(future):
        kept = (replace_future(name, clips, 1, orders) == clips)[0].flatten()[1:]
        for first in range(future):
            for last in range(first + 1, future + 1):
                if name == "reversed":
                    assert is_unchanged(name, first, last, future) == bool(kept[first:last].all())
                else:
                    assert not is_unchanged(name, first, last, future)


@pytest.mark.parametrize("count", [2, 3, 9])
def test_rolling_samples_has_no_fixed_point_and_omits_none(count):
    numbers = roll_samples(torch.arange(count))
    assert not (numbers == torch.arange(count)).any() and sorted(numbers.tolist()) == list(range(count))


def test_a_single_sample_is_refused(clips, orders):
    with pytest.raises(UserError, match=r"^1 sample has no other sample to be compared with: give 2 or more$"):
        replace_future("other", clips[:1], 3, orders[:1])


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_a_derangement_has_no_fixed_point_is_no_reversal_and_depends_on_its_key(count):
    for seed in range(100):
        order = derangement(count, generator(seed))
        assert sorted(order) == list(range(count)) and not (order == np.arange(count)).any()
        assert count == 2 or not (order == np.arange(count)[::-1]).all()
        assert (order == derangement(count, generator(seed))).all()
    assert derangement(1, generator()).tolist() == [0]


def test_unpatchify_inverts_patchify():
    images = torch.randint(0, 256, (2, 3, 8, 12), dtype=torch.uint8)
    cells = patchify(images, (2, 3))
    assert cells.shape == (2, 6, 48) and torch.equal(cells[1, 4], images[1, :, 4:, 4:8].flatten())
    assert torch.equal(unpatchify(cells, (2, 3), images.shape), images)


def test_visible_patches_are_unchanged_and_masked_ones_are_replaced():
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    hidden = torch.zeros(3, 4, 4, dtype=torch.bool)
    hidden[:, 1:3, 2:] = True
    hidden[2, 3, 3] = True
    orders = shuffle_masked(hidden, [generator(row) for row in range(3)])
    places = hidden.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None].expand_as(images)
    for name in ("other", "shuffled"):
        one = replace_masked(name, images, hidden, orders)
        assert torch.equal(one[~places], images[~places]) and not torch.equal(one[places], images[places])
    other, shuffled = (replace_masked(name, images, hidden, orders) for name in ("other", "shuffled"))
    assert torch.equal(other[places], images.roll(1, 0)[places])
    before, after = patchify(images, (4, 4)), patchify(shuffled, (4, 4))
    for row, cells in enumerate(hidden.flatten(1)):
        assert sorted(before[row, cells, 0].tolist()) == sorted(after[row, cells, 0].tolist())
    assert torch.equal(replace_masked("true", images, hidden, orders), images)


LEVELS = HJepaConfig.model_validate(
    {
        "name": "hjepa",
        "levels": [
            {
                "encoder": {
                    "image_size": 16, "patch_size": 4, "frames": 16, "tubelet_size": 2, "embed_dim": 24, "depth": 1, "num_heads": 2,
                },
                "predictor": {"embed_dim": 16, "depth": 1, "num_heads": 2},
                "task": {"name": "masked", "masks": [{"name": "causal"}]},
            },
            *[
                {
                    "encoder": {"stride": {"time": 2, "space": space}, "embed_dim": 24, "depth": 1, "num_heads": 2},
                    "predictor": {"embed_dim": 16, "depth": 1, "num_heads": 2},
                    "task": {"name": "masked", "masks": [{"name": "causal"}]},
                }
                for space in (2, 1)
            ],
        ],
    }
)  # fmt: skip


@pytest.mark.parametrize(("past", "frames"), [(0.01, 8), (0.5, 8), (0.7, 8), (0.99, 8)])
def test_all_levels_and_their_masks_are_split_at_the_same_frame(past, frames):
    encoders = LEVELS.encoders
    split = split_time(past, encoders)
    assert split == (frames, (4, 2, 1), 0.5, None)
    for (sampler,), encoder, steps in zip(build_future_samplers(LEVELS, split.share), encoders, split.steps, strict=True):
        time, rows, columns = encoder.clip_grid
        masks = sampler([generator()], 0)
        assert masks.context.flatten().tolist() == list(range(steps * rows * columns))
        assert masks.targets.flatten().tolist() == list(range(steps * rows * columns, time * rows * columns))
        assert steps * 16 // time == split.frames


def test_a_split_is_nearest_to_the_share_and_leaves_past_and_future():
    first = EncoderConfig(image_size=8, patch_size=4, frames=12, tubelet_size=2, embed_dim=24, depth=1, num_heads=2)
    assert [split_time(past, [first])[:2] for past in (0.01, 0.5, 0.7, 0.99)] == [(2, (1,)), (6, (3,)), (8, (4,)), (10, (5,))]


def test_levels_of_one_time_step_are_left_out_and_named():
    levels = [
        EncoderConfig(image_size=8, patch_size=4, frames=frames, tubelet_size=2, embed_dim=24, depth=1, num_heads=2)
        for frames in (16, 8, 2, 2)
    ]
    assert split_time(0.5, levels[:2]) == (8, (4, 2), 0.5, None)
    reason = "left out: one time step per clip, so nothing is past"
    assert split_time(0.3, levels[:3]) == (4, (2, 1), 0.25, f"level 3 {reason}")
    assert split_time(0.5, levels).note == f"level 3 to level 4 {reason}"


def test_a_first_level_without_time_is_refused():
    image = EncoderConfig(image_size=8, patch_size=4, frames=2, tubelet_size=2, embed_dim=24, depth=1, num_heads=2)
    with pytest.raises(UserError, match=r"^level 1 has one time step per clip, so nothing is past"):
        split_time(0.5, [image])
