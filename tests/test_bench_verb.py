"""`jepa shards bench`: what it prints, and that the data path is as fast as is claimed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jepa_pipeline.bench import PARTS, Report, Speeds, bench, sentences
from jepa_pipeline.cli.shards import read_numbers
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.writer import Record, moments, write_shards

RECIPES = Path(__file__).parents[1] / "configs"
SPEEDS = {"workers", "whole", "bare_loop", "webdataset", "per_worker", "whole_to_bare_loop", "whole_to_webdataset"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jepa_pipeline", "shards", "bench", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_it_prints_parts_rivals_and_how_many_workers_are_needed(shards, tiny, capsys):
    report = bench(tiny(), [1], seconds=0.1, step_rate=1000.0)
    shown = capsys.readouterr().out
    assert list(report.parts) == list(PARTS)
    assert all(seconds > 0 for seconds in report.parts.values())
    assert [speeds.workers for speeds in report.speeds] == [0, 1]
    assert all(value > 0 for speeds in report.speeds for value in speeds[1:])
    assert all(words in shown for words in [*PARTS.values(), "one process", "1 worker", "bare loop", "webdataset"])
    assert "where the time goes: " in shown
    assert f"1000 steps/s are 8,000 images/s: they need data.workers={report.workers_needed} " in shown


def test_json_is_one_object_of_the_same_numbers(shards):
    recipe = str(RECIPES / "ijepa_fashion_mnist.yaml")
    done = run(
        str(shards / "train"), "--config", recipe, "optim.batch_size_global=32", "--seconds", "0.1", "--workers", "2", "--json"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report) == set(Report._fields)
    assert set(report["parts"]) == set(PARTS)
    assert [set(speeds) for speeds in report["speeds"]] == [SPEEDS] * 2
    assert (report["data"], report["images_per_step"], report["workers_needed"]) == (str(shards / "train"), 32, None)


def test_a_rate_is_fed_by_the_workers_that_it_takes():
    report = Report("data", 4, 50, dict.fromkeys(PARTS, 0.001), [Speeds(4, 400, 1, 1, 100, 1, 1)], 10.0, 5)
    said = " ".join(sentences(report))
    assert "400 images/s by 4 workers feed 8.00 steps/s of 50 images; 1,000 images/s need data.workers=10 " in said
    assert "10 steps/s are 500 images/s: they need data.workers=5 " in said


def test_numbers_of_workers_are_read_or_refused_in_a_sentence(tmp_path: Path):
    assert read_numbers("") == []
    assert read_numbers("1, 2,16") == [1, 2, 16]
    with pytest.raises(UserError, match="--workers is 1,x: it is one or more whole numbers"):
        read_numbers("1,x")
    done = run(str(tmp_path / "nowhere"), "--config", str(RECIPES / "ijepa_vits16.yaml"))
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr


def photograph(generator: np.random.Generator, width: int, height: int) -> Image.Image:
    """Noise whose spectrum falls as that of photographs does."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    spectrum = generator.normal(size=(3, *frequency.shape)) + 1j * generator.normal(size=(3, *frequency.shape))
    planes = np.fft.irfft2(spectrum / frequency**1.3, (height, width))
    planes = 128 + 45 * planes / planes.std(axis=(1, 2), keepdims=True)
    return Image.fromarray(np.clip(planes, 0, 255).astype(np.uint8).transpose(1, 2, 0).copy())


@pytest.mark.slow
def test_the_whole_path_is_nearly_a_bare_loop_and_no_slower_than_plain_webdataset(tmp_path: Path):
    from jepa_pipeline.shards import encode

    generator = np.random.default_rng(0)
    images = [photograph(generator, 500, 375) for _ in range(300)]
    records = [Record(f"{n:04d}", encode(image, "jpg"), "jpg", None, moments(image)) for n, image in enumerate(images)]
    write_shards(records, tmp_path / "set", classes=None, made={"from": "tests"}, shard_size=8)
    done = run(str(tmp_path / "set"), "--config", str(RECIPES / "ijepa_vits16.yaml"), "--seconds", "30", "--workers", "1", "--json")
    assert done.returncode == 0, done.stderr
    for speeds in json.loads(done.stdout)["speeds"]:
        assert speeds["whole_to_bare_loop"] >= 0.85, speeds
        assert speeds["whole_to_webdataset"] >= 1.0, speeds
