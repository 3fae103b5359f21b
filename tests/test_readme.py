"""Every command in the README and in the documentation's pages runs as it stands, on photographs and videos made here.

Two things are added: recipes and generated data are shrunk by words at the end of their line, and what installs or runs all tests
is left out.
"""

import re
import shlex
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from warm_process import run_jepa, run_python

from jepa_pipeline.config.recipes import names_of
from jepa_pipeline.data.video_writer import encode_video
from jepa_pipeline.synthetic.moving_shapes import DIRECTIONS, generate_moving_shape
from jepa_pipeline.synthetic.shapes import SHAPES, generate_shape

ROOT = Path(__file__).parents[1]
SITE = ROOT / "slurm/dev-cluster/site.yaml"
PAGES = (
    "start",
    "images",
    "video",
    "python",
    "methods",
    "hierarchy",
    "evaluation",
    "runs",
    "slurm",
    "shards",
    "labels",
    "channels",
)
DOCUMENTS = ("README.md", *(f"docs/{name}.md" for name in PAGES))
"""In the order in which a reader follows them: later ones use the data and runs of earlier ones."""
SHORT = [
    "optim={batch_size_global: 8, accumulate_steps: 1, total_samples: 16, warmup_samples: 8}",
    "data.workers=0",
    "trainer={precision: fp32, accelerator: cpu}",
]
SHRINK = [
    "method.encoder={image_size: 28, patch_size: 2, arch: null, embed_dim: 24, depth: 4, num_heads: 2}",
    "method.predictor={embed_dim: 16, depth: 1, num_heads: 2}",
    *SHORT,
]
FEW = {"demo": ["--images", "300"], "demo-video": ["--videos", "160"], "demo-scales": ["--videos", "160"]}
RECIPES = names_of("recipe")
TESTED_ELSEWHERE = ("jepa quickstart", "jepa selftest resume", "jepa selftest faults", "pytest -n auto", "mkdocs build --strict")


def blocks(language, document="README.md"):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def commands(document="README.md"):
    lines = [line for block in blocks("bash", document) for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder to work in, with photos/CLASS/*.png of mixed sizes, videos and what else the pages begin with."""
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
    for number in range(32):
        folder = place / "videos" / DIRECTIONS[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.mp4").write_bytes(encode_video(generate_moving_shape(number % 2, 40, 48, generator), 10.0))
    foreign = place / "shards/imagenet"
    foreign.mkdir(parents=True)
    with tarfile.open(foreign / "train-0.tar", "w") as tar:
        for path in sorted((place / "photos").rglob("*.png"))[:12]:
            tar.add(path, f"train/{path.stem}.png")
    for number in range(40):
        (place / "scans" / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 2**16, (32, 32), dtype=np.uint16)
        Image.fromarray(pixels).save(place / "scans" / f"class{number % 2}" / f"{number}.png")
    return place


def run(code, cwd):
    done = run_python(code, cwd)
    assert done.returncode == 0, done.stdout + done.stderr


def shrink(arguments):
    """Add what makes a command short: after its recipe and its data, or at its end."""
    if arguments[0] == "shards":
        return [*arguments, *FEW.get(arguments[1], [])]
    trains = arguments[0] in ("pretrain", "submit", "doctor") or arguments[:2] == ["config", "check"]
    recipes = [word for word in arguments if word in RECIPES]
    if recipes and "debug" not in recipes[0] and (trains or arguments[:2] == ["masks", "preview"]):
        first = 1 + max(
            arguments.index(word) for word in arguments if word in RECIPES or (word.endswith("/train") and "--" not in word)
        )
        return [*arguments[:first], *(SHRINK if "vits16" in recipes[0] else SHORT), *arguments[first:]]
    return arguments


def test_every_command_runs(place):
    ran = {}
    for document in DOCUMENTS:
        for command in commands(document):
            program, *arguments = shlex.split(command)
            if command in TESTED_ELSEWHERE or program == "pip" or command in ran:
                continue
            assert program == "jepa", f"{document}: {command}"
            site = {"JEPA_SITE": str(SITE)} if {"submit", "--submit"} & {*arguments} else {}
            done = run_jepa(shrink(arguments), place, site)
            assert done.returncode == 0, f"{document}: {command}: {done.stdout}{done.stderr}"
            ran[command] = arguments[0]
    assert {*ran.values()} == {
        "benchmark",
        "config",
        "doctor",
        "embed",
        "energy",
        "export",
        "jobs",
        "masks",
        "pretrain",
        "probe",
        "shards",
        "submit",
        "table",
        "views",
    }
    python = {block for document in DOCUMENTS for block in blocks("python", document)}
    (timm_only,) = (block for block in python if "import timm" in block)
    run(timm_only, place)
    own = [block for block in python if "load_config" in block]
    for block in own:
        shrunk = re.sub(r'\["name=', f'[{", ".join(map(repr, SHORT))}, "name=again_', block)
        assert shrunk != block
        run(shrunk, place)
    (world,) = (block for block in python if "load_method" in block)
    run("import torch\nclips = torch.rand(2, 3, 8, 24, 24)\n" + world, place)
    assert len(python) == 2 + len(own), "a block of Python that no line above runs"


def test_the_commands_ci_runs_are_the_readmes():
    install, test = commands()[-2:]
    script = (ROOT / ".ci/run").read_text()
    assert test == "pytest -n auto" and install.replace("pip install", "pip install -q") in script and f"\n{test}\n" in script
