"""Every command in the README runs as it stands, on a folder of photographs made here.

Two things are added: recipes are shrunk by overrides at the end of their line, and what installs or runs all tests is left out.
"""

import re
import shlex
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from warm_process import run_jepa, run_python

from jepa_pipeline.data.video_writer import encode_video
from jepa_pipeline.synthetic.moving_shapes import DIRECTIONS, generate_moving_shape
from jepa_pipeline.synthetic.shapes import SHAPES, generate_shape

ROOT = Path(__file__).parents[1]
SITE = ROOT / "slurm/dev-cluster/site.yaml"
SHRINK = [
    "method.encoder={image_size: 28, patch_size: 2, arch: null, embed_dim: 24, depth: 4, num_heads: 2}",
    "method.predictor={embed_dim: 16, depth: 1, num_heads: 2}",
    "optim={batch_size_global: 8, accumulate_steps: 1, total_samples: 16, warmup_samples: 8}",
    "data.workers=0",
    "trainer={precision: fp32, accelerator: cpu}",
]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def commands():
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder to work in, with photos/CLASS/*.png of mixed sizes and the recipes."""
    place, generator = tmp_path_factory.mktemp("readme"), np.random.default_rng(0)
    for number in range(60):
        name = list(SHAPES)[number % 3]
        (place / "photos" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(generate_shape(name, int(generator.integers(30, 60)), generator)).save(
            place / "photos" / name / f"{number}.png"
        )
    (place / "flat").mkdir()
    photos = sorted((place / "photos").rglob("*.png"))
    for path in photos:
        (place / "flat" / path.name).write_bytes(path.read_bytes())
    (place / "flat.csv").write_text("file,label\n" + "".join(f"{path.name},{path.parent.name}\n" for path in photos))
    for number in range(20):
        folder = place / "videos" / DIRECTIONS[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.mp4").write_bytes(encode_video(generate_moving_shape(number % 2, 40, 48, generator), 10.0))
    foreign = place / "shards/imagenet"
    foreign.mkdir(parents=True)
    with tarfile.open(foreign / "train-0.tar", "w") as tar:
        for path in sorted((place / "photos").rglob("*.png"))[:12]:
            tar.add(path, f"train/{path.stem}.png")
    (place / "configs").symlink_to(ROOT / "configs")
    return place


def run(code, cwd):
    done = run_python(code, cwd)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_runs(place):
    ran = []
    for command in commands():
        program, *arguments = shlex.split(command)
        if program == "jepa" and arguments[0] not in ("quickstart", "selftest"):  # they have tests of their own
            if (arguments[0] in ("pretrain", "submit", "doctor") and "debug" not in command) or arguments[:2] == [
                "masks",
                "preview",
            ]:
                first = 1 + max(
                    arguments.index(word) for word in arguments if word.endswith((".yaml", "/train")) and "--" not in word
                )
                arguments[first:first] = SHRINK
            done = run_jepa(arguments, place, {"JEPA_SITE": str(SITE)} if {"submit", "--submit"} & {*arguments} else {})
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
            ran.append(arguments[0])
        else:
            assert (
                command in ("jepa quickstart", "jepa selftest resume", "jepa selftest faults", "pytest -n auto") or program == "pip"
            ), command
    assert set(ran) == {
        "shards",
        "masks",
        "views",
        "pretrain",
        "probe",
        "energy",
        "embed",
        "export",
        "doctor",
        "submit",
        "table",
        "jobs",
    }
    python, timm_only = (next(block for block in blocks("python") if word in block) for word in ("load_config", "import timm"))
    run(timm_only, place)
    shrunk = python.replace('"name=photos", ', '"name=again", ' + "".join(f"{override!r}, " for override in SHRINK))
    assert shrunk != python
    run(shrunk, place)
    world = next(block for block in blocks("python") if "load_method" in block)
    run("import torch\nclips = torch.rand(2, 3, 8, 24, 24)\n" + world, place)


def test_the_commands_ci_runs_are_the_readmes():
    install, test = commands()[-2:]
    script = (ROOT / ".ci/run").read_text()
    assert test == "pytest -n auto" and install.replace("pip install", "pip install -q") in script and f"\n{test}\n" in script
