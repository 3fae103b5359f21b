"""Sine-cosine positions in space and time."""

import math

import numpy as np
import pytest
import torch

from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.models.positions import resize_pos_embed, sincos_3d, sincos_uniform


def axis_slowly(position, dim):
    angles = [position / 10_000 ** (k / (dim / 2)) for k in range(dim // 2)]
    return [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]


def table_slowly(grid, dims):
    places = [(t, r, c) for t in range(grid[0]) for r in range(grid[1]) for c in range(grid[2])]
    return torch.tensor([[x for p, dim in zip(place, dims, strict=True) for x in axis_slowly(p, dim)] for place in places])


@pytest.mark.parametrize("dim", [24, 384, 1024])
def test_half_of_the_channels_is_time(dim):
    assert torch.allclose(sincos_3d((3, 2, 4), dim), table_slowly((3, 2, 4), (dim // 2, dim // 4, dim // 4)), atol=1e-6)


@pytest.mark.parametrize(
    ("dim", "parts"), [(384, (128, 128, 128)), (1024, (342, 342, 340)), (1280, (428, 428, 424)), (1408, (470, 470, 468))]
)
def test_or_each_axis_has_a_third_and_the_last_is_cut(dim, parts):
    table = sincos_uniform((3, 2, 4), dim)
    assert sum(parts) == dim == table.shape[1] and table.is_contiguous()
    whole = table_slowly((3, 2, 4), (parts[0],) * 3)
    assert torch.allclose(table, whole[:, :dim], atol=1e-6)


def test_a_width_that_time_row_and_column_cannot_share_is_refused():
    sizes = {"image_size": 8, "patch_size": 4, "frames": 4, "tubelet_size": 2, "embed_dim": 12, "depth": 1, "num_heads": 1}
    with pytest.raises(ValueError, match="embed_dim 12 is not a multiple of 8"):
        EncoderConfig(**sizes)
    assert sincos_uniform(EncoderConfig(**sizes, positions="sincos_uniform").clip_grid, 12).shape == (8, 12)


def test_fp64_makes_the_tables_and_fp32_holds_them():
    last = sincos_3d((4096, 1, 1), 16)[-1]
    slow = [*axis_slowly(4095, 8), *axis_slowly(0, 4), *axis_slowly(0, 4)]
    assert last.dtype == torch.float32 and torch.equal(last, torch.tensor(slow, dtype=torch.float64).float())


@pytest.mark.parametrize("grid", [(5, 4, 4), (2, 6, 2), (3, 8, 8), (2, 4, 3)])
def test_other_positions_lie_between_those_there_are(grid):
    old = (3, 4, 4)
    table = sincos_3d(old, 24)
    slow = table.reshape(*old, 24).numpy()
    for axis, steps in enumerate(grid):
        where = (np.arange(steps) + 0.5) * old[axis] / steps - 0.5  # centers of the new places, in old ones
        slow = np.apply_along_axis(lambda line, where=where: np.interp(where, np.arange(len(line)), line), axis, slow)
    assert torch.allclose(resize_pos_embed(table[None], old, grid)[0], torch.from_numpy(slow).float().reshape(-1, 24), atol=1e-5)


def test_a_shorter_clips_positions_are_the_first():
    table = sincos_3d((3, 4, 4), 24)[None]
    assert torch.equal(resize_pos_embed(table, (3, 4, 4), (2, 4, 4)), table[:, :32])
