"""A real Slurm cluster, such as slurm/dev-cluster/up.sh starts; without one every test here is skipped."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
SITE = ROOT / "slurm/dev-cluster/site.yaml"
DEADLINE_S = 240


def answers() -> bool:
    try:
        return subprocess.run(["scontrol", "ping"], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def pytest_collection_modifyitems(items):
    ours = [item for item in items if HERE in Path(item.fspath).parents]
    for item in ours:
        item.add_marker(pytest.mark.slurm)
    if ours and "not slurm" not in ours[0].config.getoption("markexpr", "") and not answers():
        for item in ours:
            item.add_marker(pytest.mark.skip("no Slurm answers: bash slurm/dev-cluster/up.sh starts one"))


@pytest.fixture(scope="session")
def until():
    """A function that waits until another gives something true, and returns it; it fails when that takes too long."""

    def wait(task, seconds=DEADLINE_S, shown=lambda: ""):
        end = time.monotonic() + seconds
        while not (answer := task()):
            assert time.monotonic() < end, f"not within {seconds} s\n{shown()}"
            time.sleep(0.5)
        return answer

    return wait


@pytest.fixture(scope="module")
def project(tmp_path_factory, shards):
    """A folder with data that the debug recipes find, and a function that runs `jepa` in it."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "data").mkdir()
    (folder / "data/demo").symlink_to(shards)

    def jepa(*words, code=0):
        environment = {**os.environ, "JEPA_SITE": str(SITE), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "jepa_pipeline", *map(str, words)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=DEADLINE_S)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    jepa.folder = folder
    return jepa
