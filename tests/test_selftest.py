"""The proofs of exact resume and of surviving faults prove it, and fail where there is something to find.

The default ones fork their runs from a process that has imported torch; the faults, and all slow ones, start them as users do.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from warm_process import run_jepa

JEPA = [sys.executable, "-m", "jepa_pipeline"]

GLOBAL_MASKS = """
import numpy as np
from jepa_pipeline.masks.multiblock import MultiBlock

whole = MultiBlock.__call__


def broken(self, generators, batch_number):
    return whole(self, [np.random.default_rng(np.random.randint(2**31)) for _ in generators], batch_number)


MultiBlock.__call__ = broken
"""


WARM = f"""
import sys
sys.path.append({str(Path(__file__).parents[1] / "tools")!r})
from kill_campaign import WarmRun
from jepa_pipeline.commands import selftest
selftest.LiveRun = WarmRun
"""
"""Makes the runs of `jepa selftest resume` forks of it, which have imported torch."""


def warm_selftest(*arguments, before=""):
    return run_jepa(["selftest", "resume", *arguments], before=WARM + before)


def selftest(*arguments, path=None, verb="resume"):
    environment = {**os.environ} | ({"PYTHONPATH": f"{path}:{os.environ.get('PYTHONPATH', '')}"} if path else {})
    command = [*JEPA, "selftest", verb, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_a_killed_run_is_the_run_that_was_never_killed():
    """I-JEPA with two workers and accumulation 2."""
    result = warm_selftest("--kills", 2)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "equal: the killed run is the run that was never killed" in result.stdout
    assert result.stdout.count("killed after step") in (1, 2), "the run may be over before the second kill"


def test_a_mask_from_the_global_generator_is_found_and_named(tmp_path):
    result = warm_selftest("--out", tmp_path / "runs", before=GLOBAL_MASKS)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "NOT equal, first at step" in result.stdout and "batch.0.masks.0.context (hashes.jsonl)" in result.stdout
    assert (tmp_path / "runs/killed/hashes.jsonl").exists(), "the runs are kept where there is something to see"


FORGETFUL = """
from jepa_pipeline.training.checkpoint_callback import CheckpointCallback

start = CheckpointCallback.on_train_start


def forgetful(self, trainer, module):
    self.optimizer_state = []
    start(self, trainer, module)


CheckpointCallback.on_train_start = forgetful
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_an_optimizer_that_is_not_restored_is_found_whatever_the_moment(tmp_path, seed):
    (tmp_path / "sitecustomize.py").write_text(FORGETFUL)
    result = selftest("--seed", seed, "--out", tmp_path / "runs", path=tmp_path)
    assert result.returncode == 1 and "NOT equal, first at step" in result.stdout, result.stdout + result.stderr


def test_any_recipe_can_be_tested(tiny, tmp_path):
    from jepa_pipeline.config.render import to_yaml

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(tiny("optim.warmup_samples=40")))
    result = warm_selftest(recipe, "method.ema=[0.9, 1.0]", "--steps", 9, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "9 steps of" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("method", ["vjepa", "hjepa"])
def test_a_video_recipe_can_be_tested(method, videos, tmp_path):
    """V-JEPA with two sets of masks, or a stack of two levels with one each, and a worker, through four epochs."""
    from jepa_pipeline.files import read_json_lines

    recipe = Path(__file__).parents[1] / "configs" / "debug" / f"{method}.yaml"
    small = ["optim.batch_size_global=8", "optim.warmup_samples=16", "views.crops=[{flip: 0.5}]", "trainer.accelerator=cpu"]
    places = [f"data.train={videos / 'train'}", "data.workers=1"]
    result = selftest(recipe, *places, *small, "--steps", 12, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "12 steps of" in result.stdout and "killed after step" in result.stdout
    hashed = read_json_lines(tmp_path / "out" / "killed" / "hashes.jsonl")[0]
    assert {"batch.0.views.0", "batch.0.masks.0.context", "batch.0.masks.1.targets", "batch.0.keys"} <= hashed.keys()


def test_a_run_that_fails_by_itself_is_said(tiny, tmp_path):
    from jepa_pipeline.config.render import to_yaml

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(tiny("data.train=/nowhere")))
    result = warm_selftest(recipe)
    assert result.returncode == 2 and "/nowhere is not a folder" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_kills_of_sixty_steps():
    result = selftest("--steps", 60, "--kills", 50)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("killed after step") >= 40, "most kills met the run alive"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_kills_with_any_number_of_workers(tiny, tmp_path, workers):
    from jepa_pipeline.config.render import to_yaml

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(tiny(f"data.workers={workers}", "optim.accumulate_steps=2")))
    result = selftest(recipe, "--steps", 30, "--kills", 8, "--seed", workers)
    assert result.returncode == 0, result.stdout + result.stderr


def test_runs_survive_faults_on_this_machine(tmp_path, capsys):
    """Two of them, since each costs a start; `.ci/run` gives them two minutes."""
    from jepa_pipeline.commands.faults import faults

    survived = faults(None, count=2, only=["kill", "full-disk"], total_steps=12, out=tmp_path / "out")
    printed = capsys.readouterr().out
    assert survived, printed
    assert "2 faults in 1 run" in printed and "every run ended as the one without faults, and nothing is left behind" in printed


LEAVES_A_FILE = """
import os
from jepa_pipeline.training import run_folder

original = run_folder.write_run_files


def leave(config, data_hash):
    original(config, data_hash)
    if config.name != "quiet":
        (config.folder / f".tmp{os.getpid()}").touch()


import jepa_pipeline.commands.pretrain
jepa_pipeline.commands.pretrain.write_run_files = leave
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (GLOBAL_MASKS, "differs first at step"),
        (FORGETFUL, "differs first at step"),
        (LEAVES_A_FILE, "files are left behind, such as .tmp"),
    ],
)
def test_what_a_fault_does_to_a_run_is_found(tmp_path, broken, says):
    (tmp_path / "sitecustomize.py").write_text(broken)
    faults = ["--faults", 2, "--only", "kill", "--out", tmp_path / "runs"]
    result = selftest(*faults, path=tmp_path, verb="faults")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "NOT survived" in result.stdout and says in result.stdout
    assert "again: jepa selftest faults --seed 0 --faults 2 --steps 24 --only=kill" in result.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_fault_for_ten_minutes():
    result = selftest("--minutes", 10, verb="faults")
    assert result.returncode == 0, result.stdout + result.stderr
