"""The example in CONTRIBUTING.md, followed step by step in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UNIFORMITY = "method={name: uniformity, projector: {hidden: [16], out: 8}, encoder: {timm: resnet18, image_size: 16, args: {channels: [4, 4, 8, 8]}}}"


def code_blocks():
    """Return the Python examples by the file that each names in its first line."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return re.findall(r"```python\n# (jepa_pipeline/\S+)\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def copy(tmp_path):
    """Return a folder with a copy of the package that has both examples: their new files, sections and lines."""
    package, text = tmp_path / "jepa_pipeline", (ROOT / "CONTRIBUTING.md").read_text()
    shutil.copytree(ROOT / "jepa_pipeline", package)
    objective, objective_section, encoder, encoder_section = (block for _, block in code_blocks())
    assert [file for file, _ in code_blocks()] == [
        "jepa_pipeline/losses/uniformity.py",
        "jepa_pipeline/config/methods.py",
        "jepa_pipeline/models/conv_stem.py",
        "jepa_pipeline/config/networks.py",
    ]

    assert "`UniformityConfig` joins `MethodConfig`" in text and '`"uniformity": uniformity` joins `OBJECTIVES`' in text
    (package / "losses/uniformity.py").write_text(objective)
    insert(package / "config/methods.py", "MethodConfig = (\n", f"{objective_section}\n\n", "    UniformityConfig |\n")
    objectives = package / "methods/joint_embedding.py"
    insert(objectives, "OBJECTIVES: dict[str, Callable[..., Losses]] = {\n", "", '    "uniformity": uniformity,\n')
    insert(objectives, "from jepa_pipeline.losses.vicreg", "from jepa_pipeline.losses.uniformity import uniformity\n", "")

    assert (
        "`ConvStemConfig: ConvStemEncoder` joins `JEPA_ENCODERS`" in text
        and "joins `CLASS_BY_KEY`" in text
        and "joins `Token`" in text
    )
    (package / "models/conv_stem.py").write_text(encoder)
    with (package / "config/networks.py").open("a") as networks:
        networks.write(f"\n\n{encoder_section}")
    build = package / "models/build.py"
    insert(build, "{EncoderConfig: Encoder", "", ", ConvStemConfig: ConvStemEncoder")
    insert(build, "from jepa_pipeline.models.backbone", "from jepa_pipeline.models.conv_stem import ConvStemEncoder\n", "")
    insert(build, "from jepa_pipeline.config.networks import ", "", "ConvStemConfig, ")
    encoders = package / "config/encoders.py"
    insert(encoders, '"timm": "BackboneConfig"', '"stem_channels": "ConvStemConfig", ', "")
    insert(encoders, 'Annotated[EncoderConfig, Tag("EncoderConfig")]', 'Annotated[ConvStemConfig, Tag("ConvStemConfig")] | ', "")
    insert(encoders, "from jepa_pipeline.config.networks import ", "", "ConvStemConfig, ")
    return tmp_path


def insert(path, anchor, before, after):
    text = path.read_text()
    assert text.count(anchor) == 1
    path.write_text(text.replace(anchor, before + anchor + after))


def jepa(copy, *command):
    """Run a command of the copy."""
    ran = subprocess.run(
        [sys.executable, "-m", "jepa_pipeline", *command],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def pretrain(copy, shards, recipe, *overrides):
    """Train a debug recipe for a few steps and return its metrics."""
    data = f"data.train={shards / 'train'}"
    recipe_file = str(ROOT / f"configs/debug/{recipe}.yaml")
    jepa(copy, "pretrain", recipe_file, *overrides, data, "optim.total_samples=96", "log.every_steps=1")
    return (copy / f"runs/debug_{recipe}/metrics.jsonl").read_text()


def test_new_objective_trains(copy, shards):
    lines = pretrain(copy, shards, "simclr", UNIFORMITY)
    assert '"alignment"' in lines and '"uniformity"' in lines


def test_new_encoder_trains_and_loads(copy, shards):
    pretrain(copy, shards, "ijepa", "method.encoder.stem_channels=32")
    load = "import jepa_pipeline; print(type(jepa_pipeline.load_encoder('runs/debug_ijepa')).__name__)"
    env = {**os.environ, "PYTHONPATH": str(copy)}
    ran = subprocess.run([sys.executable, "-c", load], cwd=copy, env=env, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "ConvStemEncoder"
