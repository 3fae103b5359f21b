"""`jepa doctor`, and the part of it that `jepa submit` runs: what they print, and how they end."""

import json
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest
from typer.testing import CliRunner

from jepa_pipeline.checks.submission import check_submission
from jepa_pipeline.cli import app
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.render import to_yaml

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def jepa(tmp_path, monkeypatch):
    """A function that runs the command in this process, where there is no Slurm and no site file."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin" if shutil.which("scontrol") is None else str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("JEPA_SITE", raising=False)
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def recipe(tiny, tmp_path):
    def write(*overrides):
        (tmp_path / "recipe.yaml").write_text(to_yaml(tiny(*overrides)))
        return tmp_path / "recipe.yaml"

    return write


def test_a_run_that_can_begin_ends_with_code_0(jepa, recipe):
    result = jepa("doctor", recipe(), "--quick")
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in ("python", "run folder", "batch", "samples", "slurm"))
    assert " 0 failures" in result.output.splitlines()[-1] and " ok, " in result.output.splitlines()[-1]


def test_a_run_that_cannot_ends_with_code_1_and_the_cure(jepa, recipe):
    result = jepa("doctor", recipe(), "data.train=/no/such", "--quick")
    assert result.exit_code == 1
    assert "/no/such is not a folder" in result.output and "jepa shards build" in result.output
    assert "1 failure" in result.output.splitlines()[-1]


def test_json_is_one_object(jepa, recipe):
    result = jepa("doctor", recipe(), "--quick", "--json")
    report = json.loads(result.stdout)
    assert report["ok"] and report["failures"] == 0 and report["fine"] > 10
    assert all(set(result) == {"name", "level", "text", "cure"} for result in report["findings"])
    assert all(result["cure"] for result in report["findings"] if result["level"] in ("warn", "fail"))
    assert not json.loads(jepa("doctor", recipe(), "data.train=/no/such", "--json").stdout)["ok"]


def test_without_a_recipe_machine_and_disk_are_looked_at(jepa, tmp_path):
    names = [result["name"] for result in json.loads(jepa("doctor", "--quick", "--json").stdout)["findings"]]
    assert names == ["python", "packages", "gpus", "cores", "shared memory", "open files", "slurm"]
    result = jepa("doctor", "--quick", "--json", "--out", tmp_path / "runs")
    assert {"run folder", "write speed"} <= {result["name"] for result in json.loads(result.stdout)["findings"]}
    assert not (tmp_path / "runs").exists()


def test_out_stands_for_the_recipes_output(jepa, recipe, tmp_path):
    result = jepa("doctor", recipe(), "--quick", "--json", "--out", "/proc/none")
    assert result.exit_code == 1
    (result,) = [one for one in json.loads(result.stdout)["findings"] if one["level"] == "fail"]
    assert result["name"] == "run folder" and "/proc/none/tiny" in result["text"]


def test_a_site_is_held_against_the_cluster_and_the_recipe(cluster, jepa, recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{cluster.folder}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    site = tmp_path / "site.yaml"
    site.write_text("{partition: gpu, nodes: 3, gpus_per_node: 8, cpus_per_task: 4, time: 1:00:00}")
    result = jepa("doctor", recipe(), "--quick", "--json", "--site", site)
    failures = [one for one in json.loads(result.stdout)["findings"] if one["level"] == "fail"]
    assert result.exit_code == 1 and [one["name"] for one in failures] == ["batch"] and "24 devices" in failures[0]["text"]


def test_a_run_that_can_be_queued_is_let_through_quickly(tiny, tmp_path, is_light):
    (tmp_path / "recipe.yaml").write_text(to_yaml(tiny()))
    script = (
        "import sys; from jepa_pipeline.config.load import load_config;"
        "from jepa_pipeline.checks.submission import check_submission;"
        f"import shutil; shutil.disk_usage = lambda _: type('U', (), {{'free': 10**15}});"
        f"check_submission(load_config({str(tmp_path / 'recipe.yaml')!r}), 2);"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"] and not (tmp_path / "runs").exists()
    assert is_light([sys.executable, "-c", script], 5)


def test_all_mistakes_are_told_at_once(tiny, tmp_path):
    config = tiny("data.train=[/no/such, /nor/such]", "output=/proc/none")
    with pytest.raises(UserError) as caught:
        check_submission(config, 3)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4 and all(": " in line for line in lines)
    assert all(text in str(caught.value) for text in ("3 devices", "/no/such", "/nor/such", "/proc/none/tiny"))


def test_a_disk_without_space_for_the_checkpoints_stops_a_submission(tiny, monkeypatch, capsys):
    config = tiny("checkpoint.keep_last=1")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 1_000_000))
    with pytest.raises(UserError, match=r"1 MB are free in .* free some space"):
        check_submission(config, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 3_000_000))
    check_submission(config, 1)
    assert "are free" not in capsys.readouterr().err


def test_videos_for_an_encoder_of_images_are_not_queued(tiny, videos):
    with pytest.raises(UserError, match="holds videos"):
        check_submission(tiny(f"data.train={videos / 'train'}"), 1)
