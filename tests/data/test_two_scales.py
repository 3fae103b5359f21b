"""The way of the part and the turn of the color are in the order of many frames and nowhere else."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from jepa_pipeline.cli.shards import shards
from jepa_pipeline.commands.demo_shards import demo_scales
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.data.video import open_video
from jepa_pipeline.synthetic.two_scales import (
    DOT_DIRECTIONS,
    DOT_SPEED,
    HUE_AXES,
    HUE_SPEEDS,
    HUE_STEP,
    generate_two_scales,
    sample_dot_path,
    sample_hues,
)

SIDE, FRAMES = 40, 40


def paths(name, count, frames=FRAMES):
    """Of the parts of many videos, each class with other ones."""
    return np.stack(
        [sample_dot_path(name, frames, SIDE, np.random.default_rng([list(DOT_DIRECTIONS).index(name), n])) for n in range(count)]
    )


def colors(name, count):
    return np.stack([sample_hues(name, FRAMES, np.random.default_rng([list(HUE_SPEEDS).index(name), n])) for n in range(count)])


def steps(places):
    """From each place to the next, the shorter way round."""
    return (np.diff(places, axis=-2) + SIDE / 2) % SIDE - SIDE / 2


def steadily(monkeypatch, *constants):
    for constant in constants:
        monkeypatch.setattr(f"jepa_pipeline.synthetic.two_scales.{constant}", 0.0)


def test_the_part_moves_as_its_class_says_at_speeds_that_do_not(monkeypatch):
    steadily(monkeypatch, "JUMP_PROBABILITY")
    for name, way in {"east": (1, 0), "north": (0, -1), "west": (-1, 0), "south": (0, 1)}.items():
        moved = steps(paths(name, 300))
        speeds = np.hypot(*moved.transpose(2, 0, 1))
        assert np.allclose(moved, moved[:, :1]) and np.allclose(moved / speeds[..., None], way)
        assert DOT_SPEED[0] <= speeds.min() < DOT_SPEED[0] + 0.02 and DOT_SPEED[1] - 0.02 < speeds.max() <= DOT_SPEED[1]


def test_where_the_part_will_be_is_soon_anybodys_guess():
    """Of parts that move alike, how many are still where they would be had they not jumped."""
    moved = steps(paths("east", 3000))[..., 0]
    on_its_way = (DOT_SPEED[0] <= moved) & (moved <= DOT_SPEED[1])
    kept = [on_its_way[:, :ahead].all(1).mean() for ahead in (4, 8, 24)]
    assert kept[0] > 0.65 and kept[1] > 0.45 and kept[2] < 0.2


def test_the_turn_is_lost_between_neighbors_and_plain_over_ten_frames():
    for name, turns in HUE_SPEEDS.items():
        angles = np.unwrap(colors(name, 2000) - np.radians(HUE_STEP) * turns * np.arange(FRAMES), axis=1)  # what is left is chance
        assert np.abs(angles - angles.mean(1, keepdims=True)).max() < np.radians(160)
    forward, backward = (np.exp(1j * colors(name, 2000)) for name in ("forward", "backward"))
    for ahead, least, most in ((1, 0.5, 0.6), (10, 0.85, 1.0)):
        told = [(np.angle(each[:, ahead:] / each[:, :-ahead]) > 0).mean() for each in (forward, backward)]
        assert least < told[0] < most and 1 - most < told[1] < 1 - least


def test_in_every_frame_part_and_color_are_anywhere_whatever_the_class():
    """Kolmogorov's test of each coordinate; 36 of them at a level of 0.01 %."""
    found = [places / SIDE for name in DOT_DIRECTIONS for places in np.moveaxis(paths(name, 2000), 2, 0)]
    found += [colors(name, 2000) % (2 * np.pi) / (2 * np.pi) for name in HUE_SPEEDS]
    for shares in found:
        for frame in (0, 20, 39):
            assert np.abs(np.sort(shares[:, frame]) - (np.arange(2000) + 0.5) / 2000).max() < 2.3 / np.sqrt(2000)


def test_all_colors_are_as_bright_and_as_far_from_grey():
    assert np.allclose(HUE_AXES @ HUE_AXES.T, np.eye(2)) and np.allclose(HUE_AXES.sum(1), 0)


@pytest.mark.parametrize("seed", range(3))
def test_classes_differ_in_the_motion_alone(seed):
    """Videos of one seed: all but the places is the same."""
    pairs = [("north", "forward"), ("north", "backward"), ("west", "forward")]
    one, other_turn, other_part = (
        generate_two_scales(*pair, FRAMES, SIDE, np.random.default_rng(seed)).astype(int) for pair in pairs
    )
    assert (one[0] == other_turn[0]).all()
    assert np.abs(one[20] - other_turn[20]).max() > 15
    changed = np.abs(one - other_part).max(-1) > 0
    assert changed.any() and changed.mean() < 0.2  # only where the part is in one of them


@pytest.fixture(scope="module")
def pixels():
    """The 21st frame of many videos at half the size, and numbers of both classes; what cannot help a reader is left out."""
    drawn, labels = [], []
    for number in range(3200):
        slow, fast = divmod(number % 16, 4)
        frames = generate_two_scales(
            list(DOT_DIRECTIONS)[fast], list(HUE_SPEEDS)[slow], 21, SIDE, np.random.default_rng([7, number])
        )
        drawn.append(frames[-1].reshape(20, 2, 20, 2, 3).mean((1, 3)).ravel())
        labels.append((fast, slow))
    return torch.tensor(np.array(drawn, np.float32)), torch.tensor(labels)


@pytest.mark.parametrize("factor", [0, 1])
def test_a_single_frame_does_not_tell_the_class(factor, pixels):
    """Ridge regression on pixels and their squares; the deviation of chance is 1.1 points over 1,600 videos."""
    frames, labels = pixels[0], pixels[1][:, factor]
    inputs = (frames - frames.mean(0)) / frames.std(0)
    inputs = torch.cat([inputs, inputs**2 - 1], dim=1)
    train, test, wanted = inputs[:1600], inputs[1600:], torch.eye(4)[labels[:1600]] - 0.25
    weights = train.T @ torch.linalg.solve(train @ train.T + 2400 * torch.eye(1600), wanted)
    assert abs(((test @ weights).argmax(1) == labels[1600:]).float().mean() - 0.25) < 0.045


def test_the_same_generator_draws_the_same_video():
    one, other, another = (generate_two_scales("north", "forward", 8, SIDE, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert (one == other).all() and (one != another).any()
    assert one.shape == (8, SIDE, SIDE, 3) and one.dtype == np.uint8


def test_demo_scales(tmp_path, capsys):
    out = tmp_path / "scales"
    manifests = demo_scales(out, 80, seed=1)
    counts = {"fast/train": 64, "slow/train": 64, "fast/test": 16, "slow/test": 16}
    assert {str(path.relative_to(out)): manifest.samples for path, manifest in manifests.items()} == counts
    assert "64 videos of 40 frames, 4 classes" in capsys.readouterr().err.replace("\n", " ")
    for part, count in (("train", 64), ("test", 16)):
        fast, slow = (Shards(out / factor / part) for factor in ("fast", "slow"))
        assert fast.manifest.classes == tuple(DOT_DIRECTIONS) and slow.manifest.classes == tuple(HUE_SPEEDS)
        assert slow.manifest.made == {"source": "two time scales", "factor": "slow", "seed": 1, "part": part}
        assert (fast.manifest.mean, fast.manifest.std) == (slow.manifest.mean, slow.manifest.std)
        pairs = []
        for member in range(count):
            one, other = fast.read(0, member), slow.read(0, member)
            assert (one.key, one.media) == (other.key, other.media)
            pairs.append((one.label, other.label))
        assert all(pairs.count((fast, slow)) == count / 16 for fast in range(4) for slow in range(4))
    facts = open_video(one.media).metadata
    assert (facts.frames, facts.width, facts.height, round(facts.fps, 6)) == (40, 40, 40, 12)
    again = demo_scales(tmp_path / "again", 80, seed=1)
    assert [m.shards for m in again.values()] == [m.shards for m in manifests.values()]


def test_labels_are_of_what_is_drawn(tmp_path, monkeypatch):
    """Videos that say which classes they were drawn for by their gray levels."""
    names = {name: number for classes in (DOT_DIRECTIONS, HUE_SPEEDS) for number, name in enumerate(classes)}

    def told(fast, slow, frames, side, _):
        return np.full((frames, side, side, 3), 64 * names[fast] + 16 * names[slow] + 8, np.uint8)

    monkeypatch.setattr("jepa_pipeline.commands.demo_shards.generate_two_scales", told)
    demo_scales(tmp_path / "scales", 80)
    fast, slow = (Shards(tmp_path / "scales" / factor / "test") for factor in ("fast", "slow"))
    for member in range(16):
        one, other = fast.read(0, member), slow.read(0, member)
        (frame,) = open_video(one.media).frames(np.zeros(1, np.int64))
        assert divmod(int(frame.mean() / 16), 4) == (one.label, other.label)


def test_mistakes_leave_nothing_behind(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--videos is 70: .* 16 pairs of classes: give 80 or more"):
        demo_scales(tmp_path / "few", 70)
    monkeypatch.setattr("jepa_pipeline.commands.demo_shards.relabel_slow", lambda fast: iter(()))
    with pytest.raises(UserError):
        demo_scales(tmp_path / "broken", 80)
    assert not list(tmp_path.iterdir())


def test_the_verb(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("jepa_pipeline.commands.demo_shards.demo_scales", lambda *arguments: drawn.append(arguments))
    result = CliRunner().invoke(shards, ["demo-scales", str(tmp_path / "out"), "--videos", "96", "--seed", "2"])
    assert (result.exit_code, drawn) == (0, [(tmp_path / "out", 96, 2)])
