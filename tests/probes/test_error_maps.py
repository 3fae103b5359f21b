"""Error maps: colors are where the errors are, and nowhere else."""

import numpy as np
import pytest
from PIL import Image

from jepa_pipeline.probes.error_maps import CAPTION, PANEL, ErrorMap, color_ranges, overlay, plot_error_maps, save_animation


@pytest.fixture
def shown():
    generator = np.random.default_rng(0)
    fine, coarse = np.full((4, 4, 4), np.nan, np.float32), np.full((2, 2, 2), np.nan, np.float32)
    fine[2:], coarse[1:] = generator.random((2, 4, 4)), 5 + generator.random((2, 2))
    return ErrorMap(generator.integers(0, 256, (8, 24, 24, 3), np.uint8), [fine, coarse])


def test_the_input_is_unchanged_where_nothing_was_predicted(shown):
    for error in shown.errors:
        drawn = overlay(shown.frames, error, (0.0, 6.0))
        assert (drawn[:4] == shown.frames[:4]).all() and (drawn[4:] != shown.frames[4:]).any(-1).mean() > 0.9


def test_every_pixel_has_its_tokens_color():
    frames = np.zeros((1, 6, 6, 3), np.uint8)
    error = np.array([[[0.0, 1.0], [2.0, np.nan]]], np.float32)
    drawn = overlay(frames, error, (0.0, 2.0))[0]
    blocks = drawn.reshape(2, 3, 2, 3, 3).swapaxes(1, 2).reshape(4, 9, 3)
    assert all((block == block[0]).all() for block in blocks)
    brightness = [int(block[0].sum()) for block in blocks]
    assert brightness[0] < brightness[1] < brightness[2] and brightness[3] == 0


def test_the_color_range_of_a_level_is_shared_by_all_maps(shown):
    brighter = ErrorMap(shown.frames, [error + 1 for error in shown.errors])
    (low, high), coarse = color_ranges([shown, brighter])
    assert 0 <= low < 0.3 and 1.7 < high <= 2 and 5 <= coarse[0] < coarse[1] <= 7


def test_an_animation_has_a_panel_per_level(tmp_path, shown):
    save_animation(tmp_path / "clip.gif", shown, color_ranges([shown]), past=4, fps=10.0)
    with Image.open(tmp_path / "clip.gif") as picture:
        scale = -(-PANEL // 24)
        assert picture.n_frames == 8 and picture.size == (3 * 24 * scale, 24 * scale + CAPTION)
        assert picture.info["duration"] == 100


def test_a_figure_has_a_row_per_image_and_a_column_per_level(shown):
    image = ErrorMap(shown.frames[:1], [error[-1:] for error in shown.errors])
    figure = plot_error_maps([image, image], color_ranges([image]), "drawn")
    assert len([axes for axes in figure.axes if axes.images]) == 6
    assert figure.axes[1].get_title().startswith("level 1: ")
