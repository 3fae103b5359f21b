"""The example in CONTRIBUTING.md, followed step by step in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPE = "method={name: uniformity, projector: {hidden: [16], out: 8}, encoder: {timm: resnet18, image_size: 16, args: {channels: [4, 4, 8, 8]}}}"


@pytest.fixture
def copy(tmp_path):
    """Return a folder with a copy of the package that has the example's function, section and two lines."""
    shutil.copytree(ROOT / "jepa_pipeline", tmp_path / "jepa_pipeline")
    text = (ROOT / "CONTRIBUTING.md").read_text()
    blocks = dict(re.findall(r"```python\n# (jepa_pipeline/\S+)\n(.*?)```", text, re.DOTALL))
    assert (
        len(blocks) == 2
        and "`UniformityConfig` joins `MethodConfig`" in text
        and '`"uniformity": uniformity` joins `OBJECTIVES`' in text
    )
    (tmp_path / "jepa_pipeline/losses/uniformity.py").write_text(blocks["jepa_pipeline/losses/uniformity.py"])
    section = blocks["jepa_pipeline/config/methods.py"]
    insert(tmp_path / "jepa_pipeline/config/methods.py", "MethodConfig = (\n", f"{section}\n\n", "    UniformityConfig |\n")
    objectives = tmp_path / "jepa_pipeline/methods/joint_embedding.py"
    insert(objectives, "OBJECTIVES: dict[str, Callable[..., Losses]] = {\n", "", '    "uniformity": uniformity,\n')
    insert(objectives, "from jepa_pipeline.losses.vicreg", "from jepa_pipeline.losses.uniformity import uniformity\n", "")
    return tmp_path


def insert(path, anchor, before, after):
    text = path.read_text()
    assert text.count(anchor) == 1
    path.write_text(text.replace(anchor, before + anchor + after))


def test_new_objective_trains(copy, shards):
    command = [
        sys.executable,
        "-m",
        "jepa_pipeline",
        "pretrain",
        str(ROOT / "configs/debug/simclr.yaml"),
        RECIPE,
        f"data.train={shards / 'train'}",
    ]
    command += ["optim.total_samples=96", "log.every_steps=1"]
    ran = subprocess.run(
        command, cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = (copy / "runs/debug_simclr/metrics.jsonl").read_text()
    assert '"alignment"' in lines and '"uniformity"' in lines
