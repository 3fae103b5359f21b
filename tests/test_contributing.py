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


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Return a folder with a copy of the package that has both examples: their new files, sections and lines."""
    folder = tmp_path_factory.mktemp("followed")
    package, text = folder / "jepa_pipeline", (ROOT / "CONTRIBUTING.md").read_text()
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
    return folder


def insert(path, anchor, before, after):
    text = path.read_text()
    assert text.count(anchor) == 1
    path.write_text(text.replace(anchor, before + anchor + after))


FOLLOWED = """
import sys
from jepa_pipeline.config.load import load_config
from jepa_pipeline import load_encoder, pretrain

for recipe, override in zip(sys.argv[2::2], sys.argv[3::2]):
    short = ["optim.total_samples=96", "log.every_steps=1", "trainer.threads=1", "trainer.accelerator=cpu"]
    run = pretrain(load_config(recipe, [f"data.train={sys.argv[1]}", *short, override]))
print(type(load_encoder(run)).__name__)
"""


@pytest.fixture(scope="module")
def followed(copy, shards):
    """What a process with the copy printed, in which the examples were trained for a few steps, and the encoder read back."""
    recipes = [("simclr", UNIFORMITY), ("ijepa", "method.encoder.stem_channels=32")]
    words = [word for name, override in recipes for word in (ROOT / f"configs/debug/{name}.yaml", override)]
    ran = subprocess.run(
        [sys.executable, "-c", FOLLOWED, shards / "train", *words],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_new_objective_trains(copy, followed):
    lines = (copy / "runs/debug_simclr/metrics.jsonl").read_text()
    assert '"alignment"' in lines and '"uniformity"' in lines


def test_new_encoder_trains_and_loads(copy, followed):
    assert (copy / "runs/debug_ijepa/metrics.jsonl").read_text()
    assert followed.splitlines()[-1] == "ConvStemEncoder"
