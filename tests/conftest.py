"""Shapes in annotations are checked in every test; small shards and a small run are made here."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

os.environ["OMP_NUM_THREADS"] = "1"
"""Also for the processes that tests start, and for Lightning's DDP, which gives each process all cores if nothing says otherwise."""

PACKAGE = Path(__file__).parents[1] / "jepa_pipeline"
WITH_SHAPES = [path for path in PACKAGE.rglob("*.py") if "from jaxtyping import" in path.read_text()]
"""The check of a call takes as long as many a function, so that only modules whose annotations have shapes pay for it."""
install_import_hook([".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in WITH_SHAPES], "beartype.beartype")

import torch  # noqa: E402

import jepa_pipeline._torchvision  # noqa: E402, F401
from jepa_pipeline.config.parse import load_overrides  # noqa: E402
from jepa_pipeline.config.run import RunConfig  # noqa: E402
from jepa_pipeline.distributed import ProcessGroups  # noqa: E402

torch.set_num_threads(1)

LONGEST = (
    "test_readme",
    "test_runs_on_ranks",
    "test_selftest",
    "test_methods_on_ranks",
    "test_recipes",
    "test_tools",
    "test_signals",
    "test_quickstart",
    "test_hjepa_run",
    "test_export_graphs",
    "test_contributing",
    "test_cli",
)
"""The test files that take longest, which start first, so that no process works on one of them while the others are idle."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def never_distributed():
    """A process that was one of several ends by os._exit, which would end the tests of all files that come after."""
    yield
    ProcessGroups.initialized = False


@pytest.fixture
def exports_read_here(monkeypatch):
    """Exports are read back in this process and not in one of their own, which would take seconds each."""
    from jepa_pipeline.commands import export
    from jepa_pipeline.interop.read_back import read_back

    monkeypatch.setattr(export, "read_back", lambda folder, format, here: read_back(folder, format, here=True))


def write_shapes(folder, count, seed):
    """Shards of `count` labeled 20x20 images, a few dozen a shard."""
    import numpy as np
    from PIL import Image

    from jepa_pipeline.data.writer import png_record, write_shards
    from jepa_pipeline.synthetic.shapes import SHAPES, generate_shape

    generator, names = np.random.default_rng(seed), list(SHAPES)
    images = (Image.fromarray(generate_shape(names[n % 10], 20, generator)) for n in range(count))
    records = (png_record(f"{n:04d}", image, n % 10) for n, image in enumerate(images))
    write_shards(records, folder, classes=names, made={"from": "tests"}, shard_size=256)
    return folder


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """A folder with train/ (200 images) and test/ (60 images)."""
    folder = tmp_path_factory.mktemp("shards")
    write_shapes(folder / "train", 200, seed=0)
    write_shapes(folder / "test", 60, seed=1)
    return folder


def write_moving(folder, count, seed):
    """Shards of `count` videos of 12 frames of 24x24 pixels, in which a square goes left or right: two classes."""
    import numpy as np

    from jepa_pipeline.data.video_writer import encode_video
    from jepa_pipeline.data.writer import video_record, write_shards

    generator, records = np.random.default_rng(seed), []
    for number in range(count):
        label, frames = number % 2, np.full((12, 24, 24, 3), generator.integers(0, 90), np.uint8)
        row, start = generator.integers(0, 16), generator.integers(24)
        for time, frame in enumerate(frames):
            columns = (start + (2 * label - 1) * 2 * time + np.arange(8)) % 24
            frame[row : row + 8, columns] = 200
        records.append(video_record(f"{number:04d}", encode_video(frames, 12.0, gop=6), "mp4", label))
    write_shards(records, folder, classes=["left", "right"], made={"from": "tests"})
    return folder


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """A folder with train/ (24 videos) and test/ (10 videos)."""
    folder = tmp_path_factory.mktemp("videos")
    write_moving(folder / "train", 24, seed=0)
    write_moving(folder / "test", 10, seed=1)
    return folder


def cpu_seconds(command):
    """Return the CPU time of a command."""
    before = os.times()
    subprocess.run([str(part) for part in command], capture_output=True, check=False)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@pytest.fixture
def is_light():
    """A function that tells whether a command takes at most so many times the CPU time of importing typer, pydantic and YAML.

    Importing torch takes 10 times that. Both take turns, and one of five must do it, so that other work on the machine slows both.
    """
    light = [sys.executable, "-c", "import typer, pydantic, ruamel.yaml"]
    return lambda command, times: any(cpu_seconds(command) < times * cpu_seconds(light) for _ in range(5))


TINY = [
    "name=tiny",
    "data.workers=0",
    "method.name=ijepa",
    "method.encoder={image_size: 16, patch_size: 4, embed_dim: 24, depth: 2, num_heads: 2}",
    "method.predictor={embed_dim: 16, depth: 1, num_heads: 2}",
    "method.masks={num_targets: 2, target_scale: [0.2, 0.3], context_keep: 0.3}",
    "optim={batch_size_global: 8, total_samples: 48, warmup_samples: 16}",
    "log.every_steps=2",
    "health.every_steps=3",
    "trainer.accelerator=cpu",
]


@pytest.fixture(scope="session")
def tiny_below(shards):
    """A function that makes the configuration of a run of seconds below a folder, with dotted overrides."""

    def make(output, *overrides: str) -> RunConfig:
        return load_overrides(RunConfig, [*TINY, f"data.train={shards / 'train'}", f"output={output}", *overrides])

    return make


@pytest.fixture
def tiny(tiny_below, tmp_path):
    """A function that makes the configuration of a run of seconds, with dotted overrides."""
    return partial(tiny_below, tmp_path / "runs")
