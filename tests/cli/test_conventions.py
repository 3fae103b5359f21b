"""What people expect of any command line: short options, quiet, colors, completion, JSON alone, and mistakes answered at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console
from tiny_encoders import CONFIGS, make_run

from jepa_pipeline import cli
from jepa_pipeline.cli import app, every_command
from jepa_pipeline.cli.arguments import find_run, split_data
from jepa_pipeline.cli.every_command import check_level, refuse_without_submit, split_shared
from jepa_pipeline.cli.export import FORMATS
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.console import LOG_LEVEL, is_printed, json_alone, note, set_log_level

ROOT = Path(__file__).parents[2]
RECIPE, SUITE, SITE = ROOT / "configs/debug/ijepa.yaml", ROOT / "configs/suites/demo.yaml", ROOT / "slurm/generic.yaml"


def commands(click_command=None, words=()):
    """(words, command) of every command of `jepa`."""
    click_command = click_command or typer.main.get_command(app)
    if not hasattr(click_command, "commands"):
        yield words, click_command
        return
    for name, below in click_command.commands.items():
        yield from commands(below, (*words, name))


COMMANDS = dict(commands())


@pytest.fixture(autouse=True)
def default_level(monkeypatch):
    """The log level is a variable, so that processes that are started have it too."""
    monkeypatch.delenv(LOG_LEVEL, raising=False)


def run(words, capsys):
    """Exit code, stdout and stderr of a command in this process."""
    sys.argv = ["jepa", *map(str, words)]
    with pytest.raises(SystemExit) as left:
        cli.main()
    said = capsys.readouterr()
    return left.value.code or 0, said.out, said.err


@pytest.fixture(autouse=True)
def same_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_help_is_there_under_its_short_name_and_tells_of_jobs_and_quiet(words, capsys):
    code, out, err = run([*words, "-h"], capsys)
    text = " ".join(out.split())
    assert code == 0 and not err and run([*words, "--help"], capsys)[1] == out
    assert "-q or --quiet" in text and "--log-level" in text
    if words[0] not in every_command.NOT_FOR_JOBS:
        assert "--submit" in text and "--dry-run" in text
        assert words[0] == "benchmark" or ("--then" in text and "--after" in text)
    assert ("--sweep" in text) == (words[0] in ("pretrain", "submit"))


@pytest.mark.parametrize(
    "name",
    [
        "probe",
        "table",
        "jobs",
        "benchmark",
        "energy",
        "doctor",
        "shards stats",
        "shards check",
        "config list",
        "config keys",
        "config show",
    ],
)
def test_every_command_that_prints_a_table_prints_json(name):
    options = [option for parameter in COMMANDS[tuple(name.split())].params for option in parameter.opts]
    assert "--json" in options


def test_the_version_has_a_short_name(capsys):
    assert run(["-V"], capsys) == run(["--version"], capsys) and not run(["-V"], capsys)[0]


@pytest.mark.parametrize(
    ("words", "own", "shared"),
    [
        ("pretrain r.yaml -q a=1", "pretrain r.yaml a=1", "-q"),
        ("--log-level debug probe x --quiet", "probe x", "--log-level debug --quiet"),
        ("probe x --log-level=error", "probe x", "--log-level=error"),
        ("probe x -- -q", "probe x -- -q", ""),
    ],
)
def test_options_of_every_command_may_stand_anywhere(words, own, shared):
    assert split_shared(words.split()) == (own.split(), shared.split())


def test_a_log_level_that_does_not_exist_is_refused(capsys):
    code, _, err = run(["jobs", "--log-level", "loud"], capsys)
    assert code == 2 and err == "--log-level loud is unknown: give debug, info, warning, error\n"
    assert check_level("INFO", quiet=True) == "warning" and check_level("error", quiet=True) == "error"


@pytest.mark.parametrize(
    ("level", "said"),
    [("info", ["a note", "warning: rain"]), ("warning", ["warning: rain"]), ("error", []), ("debug", ["a note", "warning: rain"])],
)
def test_quiet_leaves_warnings_and_a_log_level_says_what_else(level, said, monkeypatch, capsys):
    monkeypatch.setenv(LOG_LEVEL, level)
    note("a note\nwarning: rain")
    assert capsys.readouterr().out.splitlines() == said
    assert is_printed("info") == (level in ("info", "debug"))


def test_processes_that_are_started_are_as_quiet(monkeypatch):
    monkeypatch.setenv(LOG_LEVEL, "info")
    set_log_level("warning")
    code = "from jepa_pipeline.console import is_printed; print(is_printed('info'))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_no_color_is_honored(monkeypatch, capsys):
    from jepa_pipeline.checks.result import CheckResult
    from jepa_pipeline.commands.doctor import print_results

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    results = [CheckResult("disk", "fail", "it is full", "free some space")]
    print_results(results)
    assert "\x1b[31m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    print_results(results)
    assert "\x1b[3" not in capsys.readouterr().out and Console().no_color


WITHOUT_TORCH = """
import contextlib, io, json, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "timm", "lightning"}:
            raise ImportError(f"{name} was imported")

sys.meta_path.insert(0, Block())
from jepa_pipeline.cli import main

for words in json.load(sys.stdin):
    sys.argv, out, err, code = ["jepa", *words], io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as left:
            code = left.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""

MISTAKES = [
    "pretrain nowhere.yaml",
    "pretrain RECIPE data.train=nowhere",
    "pretrain RECIPE data.train=DATA init_from=nowhere",
    "pretrain RECIPE batch_size=3",
    "probe nowhere",
    "probe ENCODER nowhere",
    "probe ENCODER iteratons=3",
    "export nowhere",
    "export ENCODER tim",
    "energy nowhere",
    "embed nowhere DATA --out x.npy",
    "embed ENCODER nowhere --out x.npy",
    "tune nowhere.yaml",
    "tune RECIPE data.train=nowhere",
    "import nowhere",
    "import nowhere foo=1",
    "benchmark nowhere.yaml runs/x",
    "benchmark SUITE runs/x",
    "table nowhere",
    "jobs nowhere",
    "logs 123",
    "cancel 123",
    "doctor nowhere.yaml",
    "doctor --site nowhere.yaml",
    "config check nowhere.yaml",
    "config check RECIPE optim.lrr=1",
    "config show nowhere.yaml",
    "masks preview nowhere.yaml",
    "views preview nowhere.yaml",
    "views preview RECIPE data.train=nowhere",
    "shards build nowhere out",
    "shards index nowhere",
    "shards check nowhere",
    "shards stats nowhere",
    "selftest resume nowhere.yaml",
    "selftest resume RECIPE data.train=nowhere",
    "selftest faults nowhere.yaml",
    "selftest faults RECIPE data.train=nowhere",
    "submit pretrain nowhere.yaml --site SITE",
    "submit probe nowhere --site SITE",
    "quickstart RECIPE/below",
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory, shards):
    """The answers to all mistakes, in a process that cannot import torch: exit code, stdout, stderr."""
    folder = tmp_path_factory.mktemp("empty")
    encoder = make_run(tmp_path_factory.mktemp("run"), CONFIGS["images"])
    names = {"RECIPE": RECIPE, "SUITE": SUITE, "SITE": SITE, "DATA": shards / "train", "ENCODER": encoder}

    def fill(word):
        for name, path in names.items():
            word = word.replace(name, str(path))
        return word

    asked = [[fill(word) for word in words.split()] for words in [*MISTAKES, "--show-completion bash"]]
    environment = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # else typer looks for the shell around
    command, words = [sys.executable, "-c", WITHOUT_TORCH], json.dumps(asked)
    done = subprocess.run(command, input=words, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert not list(folder.iterdir()), "a mistake leaves nothing behind"
    return dict(zip([*MISTAKES, "completion"], map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("words", MISTAKES)
def test_a_missing_path_or_a_misspelled_key_is_answered_without_torch(words, answers):
    code, _, err = answers[words]
    assert code == 2 and len(err.splitlines()) == 1, err


def test_shell_completion_needs_no_torch(answers):
    code, out, _ = answers["completion"]
    assert code == 0 and "COMP_WORDS" in out


def test_json_is_alone_on_stdout(capsys):
    with json_alone(True) as print_json:
        print("a note")
        Console().print("a table")
        print_json({"rows": [1]})
    said = capsys.readouterr()
    assert json.loads(said.out) == {"rows": [1]} and "a note" in said.err and "a table" in said.err
    with json_alone(False) as print_json:
        print("a table")
        print_json({})
    assert capsys.readouterr().out == "a table\n"


def test_the_table_of_runs_is_json(tiny, capsys):
    from jepa_pipeline.config.render import save_config

    config = tiny()
    config.folder.mkdir(parents=True)
    save_config(config.folder / "config.yaml", config)
    code, out, _ = run(["table", config.folder, "--json"], capsys)
    assert code == 0 and [row["run"] for row in json.loads(out)["runs"]] == ["tiny"]
    code, out, _ = run(["jobs", config.folder.parent, "--json"], capsys)
    assert code == 0 and json.loads(out) == {"jobs": []}


def test_a_run_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/first").mkdir(parents=True)
    assert find_run(Path("first")) == Path("runs/first") and find_run(Path("second")) == Path("second")
    (tmp_path / "first").mkdir()
    assert find_run(Path("first")) == Path("first")


@pytest.mark.parametrize(
    ("words", "option", "data", "settings"),
    [
        (["shards", "k=[1]"], None, "shards", ["k=[1]"]),
        (["k=[1]"], "shards", "shards", ["k=[1]"]),
        ([], None, None, []),
        (["https://host/set?token=1"], None, "https://host/set?token=1", []),
        (["shards"], "shards", "shards", []),
    ],
)
def test_the_data_of_a_probe_may_follow_the_run(words, option, data, settings):
    assert split_data(words, option) == (data, settings)


def test_two_data_sets_of_a_probe_are_refused():
    with pytest.raises(UserError, match="give one of them"):
        split_data(["a"], "b")
    with pytest.raises(UserError, match="b is no setting KEY=VALUE"):
        split_data(["a", "b"], None)


def test_a_run_and_its_data_in_the_wrong_order_are_told_so(shards, tmp_path):
    from jepa_pipeline.checks.given_paths import check_probing

    make_run(tmp_path / "run", CONFIGS["images"])
    with pytest.raises(UserError, match=f"name the run first, as in `jepa probe {tmp_path}/run {shards}`"):
        check_probing(shards, str(tmp_path / "run"), None)


@pytest.mark.parametrize("word", ["--dry-run", "--then", "--after=3", "--sweep", "--site"])
def test_options_of_a_job_need_submit(word):
    with pytest.raises(UserError, match=f"{word} is for Slurm jobs: add --submit"):
        refuse_without_submit(["pretrain", "recipe.yaml", word])
    refuse_without_submit(["pretrain", "recipe.yaml", word, "--submit"])
    refuse_without_submit(["submit", "pretrain", "recipe.yaml", word])


def test_formats_of_exports_are_those_that_there_are():
    from jepa_pipeline.commands.export import FORMATS as ALL

    assert {*FORMATS} == {*ALL}
