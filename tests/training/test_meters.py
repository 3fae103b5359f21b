"""Meters store an unbiased sample of vectors, and report correct averages."""

import time

import pytest
import torch

from jepa_pipeline.training.callbacks import measure_health
from jepa_pipeline.training.meters import AverageMeters, RingBuffer


@pytest.mark.parametrize(("images", "positions"), [(64, 36), (256, 116), (8, 8), (7, 5)])
def test_the_ring_buffer_visits_every_position_of_an_image(images, positions):
    """The number of vectors is a multiple of the batch size, so an even spacing would always select the same positions."""
    buffer, visited = RingBuffer(2048, 1), set()
    for _ in range(40):
        step = torch.arange(positions, dtype=torch.float32).repeat(images)[:, None]
        buffer.add(step, 64)
        visited |= set(buffer.contents().flatten().int().tolist())
    assert visited == set(range(positions))


def test_targets_and_predictions_stay_matched():
    targets, predictions = RingBuffer(100, 2), RingBuffer(100, 2)
    for step in range(7):
        vectors = torch.randn(60, 2) + step
        targets.add(vectors, 32)
        predictions.add(-vectors, 32)
    assert torch.equal(targets.contents(), -predictions.contents()) and len(targets.contents()) == 100


def test_averages_are_reset_when_they_are_computed():
    means = AverageMeters()
    for value in (1.0, 2.0, 6.0):
        means.update({"a": torch.tensor(value)})
    means.update({"b": torch.tensor(5.0)})
    assert means.compute_and_reset() == {"a": 3.0, "b": 5.0}
    assert means.compute_and_reset() == {}


def test_health_distinguishes_collapse_from_learning():
    torch.manual_seed(0)
    targets = torch.randn(500, 16)
    good = measure_health(targets, targets, targets + 0.1 * torch.randn(500, 16))
    constant = measure_health(targets, targets, torch.zeros(500, 16))
    point = torch.ones(500, 16) + 1e-4 * torch.randn(500, 16)
    collapsed = measure_health(point, point, torch.ones(500, 16))
    assert good["health/predictor_r2"] > 0.9 and abs(constant["health/predictor_r2"]) < 0.02
    assert good["health/target_rankme"] > 10 and good["health/target_cosine"] < 0.1
    assert collapsed["health/target_rankme"] < 1.1 and collapsed["health/target_cosine"] > 0.99


def test_writing_a_checkpoint_does_not_count_as_waiting_for_data(tiny, monkeypatch):
    from rich.console import Console

    from jepa_pipeline.commands.pretrain import pretrain
    from jepa_pipeline.files import read_json_lines
    from jepa_pipeline.training.async_save import AsyncCheckpointWriter

    original = AsyncCheckpointWriter.write
    monkeypatch.setattr(AsyncCheckpointWriter, "write", lambda *arguments: (time.sleep(0.4), original(*arguments))[1])
    config = tiny("checkpoint.every_steps=1", "checkpoint.background=false", "log.every_steps=1")
    pretrain(config, Console(quiet=True))
    later = [row["data_wait_share"] for row in read_json_lines(config.folder / "metrics.jsonl") if "loss" in row][1:]
    assert max(later) < 0.5
