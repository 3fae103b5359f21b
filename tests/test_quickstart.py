"""The promise of the quickstart, in a shorter form: what it learns beats its untrained twin and raw pixels."""

import pytest

from jepa_pipeline.commands.quickstart import quickstart


def linear(rows):
    return {row.encoder: row.top1 for row in rows if row.protocol == "linear"}


def test_the_whole_path_runs_and_runs_again(tmp_path, capsys):
    rows = quickstart(tmp_path, total_samples=640, images=200)
    assert {row.encoder for row in rows} == {"target", "random_init", "pixels"}
    assert (tmp_path / "runs/quickstart/export/timm/model.safetensors").exists()
    assert "jepa shards build YOUR_IMAGES" in capsys.readouterr().out
    again = quickstart(tmp_path, total_samples=640, images=200)
    assert linear(again) == linear(rows)


@pytest.mark.slow
def test_a_short_pretraining_beats_the_untrained_twin_and_pixels(tmp_path):
    """Less than half of the quickstart's samples; the margins of the whole are in the README, over three seeds."""
    found = linear(quickstart(tmp_path, total_samples=32_000, images=6_000))
    assert found["target"] > found["random_init"] + 0.05
    assert found["target"] > found["pixels"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_quickstart_beats_its_untrained_twin_by_ten_points(seed, tmp_path):
    found = linear(quickstart(tmp_path, seed=seed))
    assert found["target"] > found["random_init"] + 0.10
    assert found["target"] > found["pixels"]
