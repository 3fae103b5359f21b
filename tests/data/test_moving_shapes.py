"""The direction of the moving shapes is in the order of their frames and nowhere else."""

import numpy as np
import pytest

from jepa_pipeline.commands.demo_shards import demo_video
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.data.video import open_video
from jepa_pipeline.synthetic.moving_shapes import DIRECTIONS, SPEED, generate_moving_shape, sample_path

SIDE, FRAMES = 40, 24


def paths(direction, count=3000):
    """Of many videos, each class with other ones."""
    return np.stack([sample_path(direction, FRAMES, SIDE, np.random.default_rng([direction, n])) for n in range(count)])


def test_the_shape_moves_as_its_class_says_at_speeds_that_do_not():
    for direction, name in enumerate(DIRECTIONS):
        steps = (np.diff(paths(direction, 300), axis=1) + SIDE / 2) % SIDE - SIDE / 2
        speeds = np.hypot(*steps.transpose(2, 0, 1))
        assert np.allclose(speeds, speeds[:, :1])
        assert SPEED[0] <= speeds.min() < 0.75
        assert 1.55 < speeds.max() <= SPEED[1]
        assert abs(speeds.mean() - np.mean(SPEED)) < 0.06
        right, down = (steps / speeds[..., None]).mean((0, 1)).round().astype(int)  # 0.71 of a diagonal rounds to 1
        assert {"north": -1, "south": 1}.get(name.split("-")[0], 0) == down
        assert {"east": 1, "west": -1}.get(name.split("-")[-1], 0) == right


def test_in_every_frame_the_shape_is_anywhere_whatever_the_class():
    """Kolmogorov's test of each coordinate; 96 of them at a level of 0.01 %."""
    for direction in range(8):
        all_places = paths(direction)
        for frame in (0, 5, 11, 12, 18, 23):
            for places in np.sort(all_places[:, frame], axis=0).T:
                assert np.abs(places / SIDE - (np.arange(3000) + 0.5) / 3000).max() < 2.3 / np.sqrt(3000)


@pytest.fixture
def steady(monkeypatch):
    """Videos without what belongs to each frame alone."""
    monkeypatch.setattr("jepa_pipeline.synthetic.moving_shapes.FLICKER", 0.0)
    monkeypatch.setattr("jepa_pipeline.synthetic.moving_shapes.GRAIN", 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_videos_of_opposite_directions_have_the_same_frames(seed, steady):
    videos = [generate_moving_shape(direction, 25, SIDE, np.random.default_rng(seed)).astype(int) for direction in range(8)]
    for direction in range(4):
        assert np.abs(videos[direction] - videos[direction + 4][::-1]).max() <= 1
    assert all(np.abs(videos[0][12] - video[12]).max() <= 1 for video in videos)  # halfway all are where any other is
    assert np.abs(videos[0] - videos[2]).max() > 30


def test_motion_is_finer_than_a_pixel(steady):
    frames = generate_moving_shape(0, 2, SIDE, np.random.default_rng(3)).astype(int)
    changed = np.abs(frames[1] - frames[0]).max(-1)
    assert ((changed > 3) & (changed < changed.max() / 2)).any()


def test_tint_and_grain_are_each_frames_own_whatever_the_class():
    frames = generate_moving_shape(0, 400, SIDE, np.random.default_rng(0)).astype(float)
    tints = frames.mean((1, 2)) - frames.mean((0, 1, 2))
    assert 15 < tints.std() < 35 and abs(np.corrcoef(tints[1:, 0], tints[:-1, 0])[0, 1]) < 0.2


def test_demo_video(tmp_path, capsys):
    manifests = demo_video(tmp_path / "moving", 80, seed=1)
    assert [manifest.samples for manifest in manifests.values()] == [64, 16]
    assert "64 videos of 24 frames, 8 classes" in capsys.readouterr().err.replace("\n", " ")
    shards = Shards(tmp_path / "moving" / "test")
    labels = []
    for member in range(16):
        sample = shards.read(0, member)
        labels.append(sample.label)
        facts = open_video(sample.media).metadata
        assert (facts.frames, facts.width, facts.height, facts.fps) == (24, 40, 40, 12)
    assert labels == [*range(8)] * 2
    again = demo_video(tmp_path / "again", 80, seed=1)
    assert [m.shards for m in again.values()] == [m.shards for m in manifests.values()]
    with pytest.raises(UserError, match="--videos is 30"):
        demo_video(tmp_path / "few", 30)
