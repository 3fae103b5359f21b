"""Help and mistakes do not wait for torch; a mistake is one sentence with exit code 2."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from warm_process import WarmJepa, run_jepa

JEPA = [sys.executable, "-c", "from jepa_pipeline.cli import main; main()"]
RECIPE = Path(__file__).parents[2] / "configs/ijepa_fashion_mnist.yaml"


def jepa(*arguments, cwd=None):
    result = subprocess.run(
        [*JEPA, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env={**os.environ, "COLUMNS": "200"}
    )
    assert "Traceback" not in result.stderr, result.stderr
    return result


@pytest.mark.parametrize(
    "command",
    [
        "",
        "quickstart",
        "pretrain",
        "probe",
        "export",
        "import",
        "submit",
        "jobs",
        "logs",
        "cancel",
        "doctor",
        "benchmark",
        "table",
        "shards",
        "shards build",
        "shards index",
        "shards check",
        "shards stats",
        "selftest resume",
        "selftest faults",
        "config",
        "config check",
        "config show",
        "config list",
        "config copy",
        "config keys",
        "masks preview",
        "views preview",
        "energy",
        "embed",
        "tune",
        "shards demo",
        "shards demo-video",
        "shards demo-scales",
    ],
)
def test_every_command_has_help(command):
    result = run_jepa([*command.split(), "--help"])
    assert result.returncode == 0 and "Usage" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["pretrain", "--help"],
        ["config", "check", RECIPE, "optim.lrr=1"],
        ["config", "keys"],
        ["config", "copy", "nothing"],
    ],
)
def test_help_and_typos_do_not_import_torch(arguments, is_light):
    """They take little more CPU time than the imports of their libraries: about 0.4 s where torch alone takes 2 s."""
    profile = [sys.executable, "-X", "importtime", "-c", JEPA[2], *map(str, arguments)]
    heavy = subprocess.run(profile, capture_output=True, text=True).stderr
    assert not {"torch", "timm", "lightning", "numpy"} & {line.rsplit("|")[-1].strip() for line in heavy.splitlines()}
    assert is_light([*JEPA, *arguments], 4)


def test_misspelled_command_is_corrected():
    result = jepa("pretrian", RECIPE)
    assert result.returncode == 2 and "pretrain" in result.stderr


def test_three_mistakes_are_reported_with_their_lines(tmp_path):
    lines = RECIPE.read_text().splitlines()
    line_of = {key: next(n for n, line in enumerate(lines) if line.strip().startswith(key)) for key in ("lr:", "seed:", "trainer:")}
    lines[line_of["lr:"]] = "  lr: fast"
    lines[line_of["seed:"]] = "sede: 0"
    lines[line_of["trainer:"]] = "trainer: {precision: bf61}"
    recipe = tmp_path / "wrong.yaml"
    recipe.write_text("\n".join(lines))
    result = jepa("config", "check", recipe)
    assert result.returncode == 2
    errors = result.stderr.splitlines()
    assert len(errors) == 3
    for key, words in (
        ("lr:", "'optim.lr' is 'fast'"),
        ("seed:", "did you mean 'seed'"),
        ("trainer:", "'trainer.precision' is 'bf61'"),
    ):
        assert any(line.startswith(f"{recipe}:{line_of[key] + 1}: ") and words in line for line in errors), errors


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["pretrain", "nowhere.yaml"], "no file nowhere.yaml"),
        (["pretrain", RECIPE, "data.train=nowhere"], "nowhere"),
        (["pretrain", RECIPE, "optim.lr"], "KEY=VALUE"),
        (["pretrain", "data.train=nowhere"], "name a recipe first"),
        (["probe", "runs/first", "data/demo", "more"], "give one run, then one data set, then settings"),
        (["probe", "nowhere", "--data", "d"], "no folder nowhere"),
        (["export", "nowhere"], "no folder nowhere"),
        (["export", "nowhere", "--to", "tim"], "timm"),
        (["shards", "build", "nowhere", "out"], "nowhere"),
        (["shards", "check", "nowhere"], "nowhere"),
        (["shards", "stats", "nowhere"], "nowhere"),
        (["shards", "index", "nowhere"], "nowhere"),
        (["selftest", "resume", "nowhere.yaml"], "no file nowhere.yaml"),
        (["probe", RECIPE, "--data", "pipe:cat x"], "no encoder"),
        (["masks", "preview", "nowhere.yaml"], "no file nowhere.yaml"),
        (["config", "show", "nowhere.yaml"], "no file nowhere.yaml"),
    ],
)
def test_missing_file_or_folder_is_one_sentence(arguments, text, tmp_path):
    result = run_jepa(arguments, tmp_path)
    assert result.returncode == 2
    assert text in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir()), "a mistake leaves nothing behind"


@pytest.mark.parametrize("option", ["--optim.lr=0.1", "--optim.lr"])
def test_an_override_with_dashes_is_told_how_to_write_it(option):
    result = jepa("pretrain", "recipe.yaml", option)
    assert result.returncode == 2
    assert result.stderr == f"{option} has dashes: an override is written KEY=VALUE, such as optim.lr=VALUE\n"


def test_config_show_explains_every_key():
    shown = jepa("config", "show", RECIPE).stdout
    assert "# Peak learning rate" in shown and "lr: 0.001" in shown
    assert "optim.lr (adamw): number > 0, default 0.001. Peak learning rate" in jepa("config", "show").stdout


def test_config_check_accepts_a_valid_recipe():
    result = jepa("config", "check", RECIPE)
    assert result.returncode == 0 and "is valid" in result.stdout


def test_importing_the_package_is_light_and_its_names_are_functions():
    code = """
import sys, jepa_pipeline
assert not {"torch", "pydantic", "numpy"} & set(sys.modules)
import jepa_pipeline.commands.pretrain, jepa_pipeline.commands.probe, jepa_pipeline.commands.export
from jepa_pipeline import export, load_config, load_encoder, pretrain, probe
assert all(map(callable, (export, load_config, load_encoder, pretrain, probe)))
assert jepa_pipeline.pretrain is pretrain
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    """Nothing of Python's shutdown is printed: threads and workers that were interrupted would complain there."""
    from jepa_pipeline import cli

    def interrupted(**_):
        raise SystemExit(130)  # as typer ends after KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    monkeypatch.setattr(cli.os, "_exit", lambda code: pytest.fail("left") if code != 130 else None)
    monkeypatch.setattr(cli.sys, "exit", lambda code: None)
    cli.main()
    assert capsys.readouterr().err == "interrupted\n"


def test_a_machine_without_room_for_temporary_files_is_said(monkeypatch, capsys):
    """As tempfile reports it on a full disk, to libraries that ask for the folder when they are imported."""
    import tempfile

    from jepa_pipeline import cli

    def use_temporary_folder(args):
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [])
        tempfile.gettempdir()

    monkeypatch.setattr(cli, "app", use_temporary_folder)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert capsys.readouterr().err == "no folder of temporary files can be written to: free some space in /tmp, or set TMPDIR\n"


def test_version_option():
    from jepa_pipeline import __version__

    assert jepa("--version").stdout.strip() == __version__


def test_interrupted_run_says_how_to_resume(shards, tmp_path):
    import signal

    recipe = [
        RECIPE,
        f"data.train={shards / 'train'}",
        f"output={tmp_path}",
        "data.workers=0",
        "trainer.precision=fp32",
        "log.every_steps=1",
    ]
    wait = "import jepa_pipeline.training.signals as signals; signals.LITTLE_TO_LOSE_S = 0.0"  # a slow machine has slow steps
    process = WarmJepa(["pretrain", *recipe], before=wait)
    metrics = tmp_path / "ijepa_fashion_mnist/metrics.jsonl"
    while not (metrics.exists() and metrics.read_text()) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 75
    assert "Traceback" not in stderr and "stopped cleanly after step" in stderr and "the same command resumes from" in stderr
    assert (tmp_path / "ijepa_fashion_mnist/checkpoints/last").exists()


@pytest.mark.parametrize("limit_kb", [20, 60])
def test_full_disk_is_one_sentence(tiny, tmp_path, limit_kb):
    """It may be the log, the encoder or the checkpoint that does not fit."""
    from jepa_pipeline.config.render import to_yaml

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(tiny("log.hashes_every_steps=1", "optim.total_samples=80", "checkpoint.every_steps=5")))
    ulimit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_kb << 10}, {limit_kb << 10}))"
    result = run_jepa(["pretrain", recipe], before=ulimit)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr and "File too large" in result.stderr
