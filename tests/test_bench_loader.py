"""tools/bench_loader.py: what it prints, and that the data path is as fast as is claimed."""

import json
import os
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.crop import CropConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.views import ViewsConfig
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.data.writer import Record, compute_channel_stats, write_shards

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "configs"
sys.path.insert(0, str(ROOT / "tools"))

from bench_loader import PART_LABELS, PARTS, Report, Speeds, bench, parse_workers, summary_sentences  # noqa: E402
from loader_baselines import crop_video  # noqa: E402

SPEEDS = {"workers", "whole", "bare_loop", "webdataset", "per_worker", "whole_to_bare_loop", "whole_to_webdataset"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools/bench_loader.py"), *arguments]
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_it_prints_parts_rivals_and_how_many_workers_are_needed(shards, tiny, capsys):
    report = bench(tiny(), [1], seconds=0.1, step_rate=1000.0)
    shown = capsys.readouterr().out
    assert list(report.parts) == list(PARTS["images"])
    assert all(seconds > 0 for seconds in report.parts.values())
    assert [speeds.workers for speeds in report.speeds] == [0, 1]
    assert all(value > 0 for speeds in report.speeds for value in speeds[1:])
    assert all(
        words in shown
        for words in [*(PART_LABELS[part] for part in report.parts), "images/s", "µs/image", "one process", "1 worker"]
    )
    assert all(words in shown for words in ["bare loop", "webdataset"])
    assert "time by part: " in shown
    assert f"1000 steps/s are 8,000 images/s: they need data.workers={report.workers_needed}, " in shown


CLIPS = [
    "method.name=vjepa",
    "method.encoder.frames=4",
    "method.encoder.tubelet_size=2",
    "method.masks=[{name: causal, context_time: 0.5}]",
]


def test_videos_are_measured_in_clips_and_by_parts_of_their_own(videos, tiny, capsys):
    views = "views={clip: {stride: 2}, crops: [{count: 2}]}"
    report = bench(tiny(*CLIPS, views, f"data.train={videos / 'train'}"), [1], seconds=0.1, step_rate=1000.0)
    shown = capsys.readouterr().out
    assert list(report.parts) == list(PARTS["videos"])
    assert all(value > 0 for speeds in report.speeds for value in speeds[1:])
    assert all(words in shown for words in [*(PART_LABELS[part] for part in report.parts), "clips/s", "µs/clip"])
    assert f"1000 steps/s are 8,000 clips/s: they need data.workers={report.workers_needed}, " in shown
    assert "image" not in shown


def test_images_are_clips_that_stand_still_and_videos_no_images(videos, tiny, capsys):
    report = bench(tiny(*CLIPS), [1], seconds=0.1)
    assert list(report.parts) == list(PARTS["images"])
    assert report.unit == "clips"
    with pytest.raises(UserError, match=r"holds videos, but this run's ijepa trains an image encoder: "):
        bench(tiny(f"data.train={videos / 'train'}"), [1], seconds=0.1)


@pytest.mark.parametrize("clip", [{"stride": 1}, {"stride": 3}, {"stride": 9}, {"fps": 5.0}, {"fps": 40.0}])
@pytest.mark.parametrize("format, codec", [("mp4", "libx264"), ("matroska", "libx264"), ("avi", "mpeg4"), ("gif", "gif")])
def test_the_bare_loop_shows_the_frames_that_a_clip_has(format, codec, clip):
    views = ViewsConfig(clip=ClipConfig(**clip), crops=(CropConfig(scale=(1.0, 1.0), aspect=(1.0, 1.0)),))
    for _ in range(4):
        (shown,) = crop_video(brightening(format, codec), views, [16], frames=5)
        assert shown.shape == (5, 16, 16, 3)
        levels = shown.mean(axis=(1, 2, 3)) / 8
        step = clip.get("stride") or 12 / clip["fps"]
        expected = (levels[0] + step * np.arange(5)) % 24
        assert np.abs(levels - expected).max() < 1.5, levels


def brightening(format: str, codec: str) -> bytes:
    """24 frames at 12 a second, with a key frame every 6, each 8 levels lighter than the one before."""
    file = BytesIO()
    with av.open(file, "w", format=format) as container:
        stream: Any = container.add_stream(codec, rate=12)
        stream.width, stream.height, stream.gop_size = 32, 32, 6
        stream.pix_fmt = "rgb8" if format == "gif" else "yuv420p"
        for number in range(24):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 8 * number, np.uint8), "rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def test_damaged_samples_are_passed_over(tmp_path, videos, tiny):
    folder = shutil.copytree(videos / "train", tmp_path / "train")
    tar = folder / Shards(folder).manifest.shards[0].file
    written = tar.read_bytes()
    for member in (3, 9):
        media = Shards(folder).read(0, member).media
        written = written.replace(media, bytes(len(media)))
    tar.write_bytes(written)
    report = bench(tiny(*CLIPS, "views.clip.stride=2", f"data.train={folder}"), [1], seconds=0.1)
    assert all(speed > 0 for speeds in report.speeds for speed in speeds[1:])


def test_json_is_one_object_of_the_same_numbers(shards):
    recipe = str(RECIPES / "ijepa_fashion_mnist.yaml")
    done = run(
        str(shards / "train"), "--config", recipe, "optim.batch_size_global=32", "--seconds", "0.1", "--workers", "2", "--json"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report) == set(Report._fields)
    assert set(report["parts"]) == set(PARTS["images"])
    assert [set(speeds) for speeds in report["speeds"]] == [SPEEDS] * 2
    assert (report["data"], report["unit"], report["per_step"]) == (str(shards / "train"), "images", 32)
    assert report["workers_needed"] is None


def test_a_rate_is_fed_by_the_workers_that_it_takes():
    report = Report("data", "images", 4, 50, dict.fromkeys(PARTS["images"], 0.001), [Speeds(4, 400, 1, 1, 100, 1, 1)], 10.0, 5)
    said = " ".join(summary_sentences(report))
    assert "400 images/s by 4 workers supply 8.00 steps/s of 50 images; 1,000 images/s need data.workers=10, " in said
    assert "10 steps/s are 500 images/s: they need data.workers=5, " in said


def test_numbers_of_workers_are_read_or_refused_in_a_sentence(tmp_path: Path):
    assert parse_workers("") == []
    assert parse_workers("1, 2,16") == [1, 2, 16]
    with pytest.raises(UserError, match="--workers is 1,x: give whole numbers separated by commas"):
        parse_workers("1,x")
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
    from jepa_pipeline.data.prepare import encode

    generator = np.random.default_rng(0)
    images = [photograph(generator, 500, 375) for _ in range(300)]
    records = [
        Record(f"{n:04d}", encode(image, "jpg"), "jpg", None, compute_channel_stats(image)) for n, image in enumerate(images)
    ]
    write_shards(records, tmp_path / "set", classes=None, made={"from": "tests"}, shard_size=8)
    done = run(str(tmp_path / "set"), "--config", str(RECIPES / "ijepa_vits16.yaml"), "--seconds", "30", "--workers", "1", "--json")
    assert done.returncode == 0, done.stderr
    for speeds in json.loads(done.stdout)["speeds"]:
        assert speeds["whole_to_bare_loop"] >= 0.85, speeds
        assert speeds["whole_to_webdataset"] >= 1.0, speeds
