"""A secret planted wherever one can come from is in no file and no stream, but where the run reads it again, for its owner alone."""

import json
import os
import subprocess
import sys

import pytest
from rich.console import Console

from jepa_pipeline.cli import main
from jepa_pipeline.commands import export as exporting
from jepa_pipeline.commands.export import export
from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.render import to_yaml
from jepa_pipeline.config.trainer import ProbingConfig
from jepa_pipeline.redaction import PRIVATE_ARGUMENTS
from jepa_pipeline.training.online_eval import probe_command, probe_environment

SECRETS = {
    "password": "Planted-Pass",
    "token": "Planted-Token",
    "signature": "Planted-Sig",
    "environment": "Planted-Env",
    "site": "Planted-Site",
}
INPUTS = ("site.yaml", "suite.yaml")


def with_secrets(url):
    user = url.replace("http://", f"http://me:{SECRETS['password']}@")
    return f"{user}?token={SECRETS['token']}&X-Amz-Signature={SECRETS['signature']}"


def holding(folder):
    """The files below a folder that hold a secret, or have one in their names, but for those that the test itself wrote."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in INPUTS and "cache" not in path.parts]
    secrets = [secret.encode() for secret in SECRETS.values()]
    return {
        str(path.relative_to(folder)): path.stat().st_mode & 0o777
        for path in files
        if any(secret in path.read_bytes() + os.fsencode(path) for secret in secrets)
    }


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder in which the commands run, with a site and an environment that hold secrets."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "site.yaml").write_text(
        f"time: 60\nenvironment: {{HF_TOKEN: {SECRETS['site']}}}\nsetup: ['export DB_PASSWORD={SECRETS['site']}']\n"
    )
    monkeypatch.setenv("JEPA_SITE", str(folder / "site.yaml"))
    monkeypatch.setenv("SOME_API_KEY", SECRETS["environment"])
    return folder


@pytest.fixture
def jepa(monkeypatch, capsys):
    """The command in this process; returns its exit code and what it wrote, which must hold no secret."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["jepa", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        written = "".join(capsys.readouterr())
        assert not [secret for secret in SECRETS.values() if secret in written], written
        return int(ended.value.code or 0), written

    return run


@pytest.fixture
def recipe(tiny, place, tmp_path):
    """A recipe without secrets of its own."""
    config = tiny("output=runs", "name=a", f"data.cache.folder={tmp_path / 'cache'}", "data.train=later")
    (place / "recipe.yaml").write_text(to_yaml(config))
    return "recipe.yaml"


def test_a_run_its_export_and_its_table_tell_no_secret(jepa, place, recipe, url):
    """Nor does the run lose it: the same command resumes, and the run folder alone does."""
    data = with_secrets(url)
    (place / "suite.yaml").write_text(f"name: suite\ndata: [{{name: d, path: '{data}', test: '{data}'}}]\n")
    assert (
        jepa("pretrain", recipe, f"data.train=[{{path: '{data}', weight: 3}}]", f"log.wandb_project=of {SECRETS['token']}")[0] == 0
    )
    assert load_config(place / "runs/a").data.train[0].path == data
    for words in (
        ["pretrain", "runs/a"],
        ["export", "runs/a", "--to", "jepa"],
        ["table", "runs/a", "--out", "table"],
        ["config", "show", "runs/a"],
        ["config", "check", "runs/a"],
        ["shards", "check", data, "--workers", "1"],
        ["shards", "index", data.replace("?", "/shard-{000000..000002}.tar?"), "--out", "indexed", "--workers", "1"],
        ["submit", "pretrain", "runs/a", "--dry-run", "--then", f"probe --data {data} --test {data}"],
        ["submit", "pretrain", recipe, "--dry-run", "--sweep", f"data.train='{data}','{data}&b=1'"],
    ):
        assert jepa(*words)[0] == 0, words
    assert jepa("benchmark", "suite.yaml", "runs/a")[0] == 1, "training and test data are the same"
    assert holding(place) == {"runs/a/config.yaml": 0o600, "indexed/manifest.json": 0o600}


def test_no_mistake_tells_a_secret(jepa, place, recipe, url):
    data, missing = with_secrets(url), with_secrets(f"{url}/missing")
    for words in (
        ["pretrain", recipe, f"data.train={missing}"],
        ["pretrain", recipe, f"init_from={missing}"],
        ["pretrain", recipe, f"data.train=pipe:curl {data}"],
        ["config", "check", recipe, f"data.train=['{data}', '{data}']"],
        ["config", "check", recipe, f"optim.lr={data}"],
        ["config", "check", recipe, f"seed=[{data}"],
        ["config", "check", recipe, data],
        ["config", "check", data],
        ["config", "check", recipe, "--unknown", data],
        ["probe", "runs/none", "--data", missing],
        ["shards", "stats", data],
        ["shards", "check", missing],
        ["shards", "index", data, "--out", "indexed"],
        ["shards", "build", data, "built"],
        ["export", data],
        ["submit", "pretrain", recipe, "--dry-run", "--set", f"enviroment.API_TOKEN={SECRETS['token']}"],
    ):
        code, written = jepa(*words)
        assert code == 2 and "Traceback" not in written, (words, written)
    assert not holding(place)


def test_an_error_of_our_own_tells_no_secret(jepa, recipe, url, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError(f"cannot reach {with_secrets(url)}, {SECRETS['token']} is refused")

    monkeypatch.setattr("jepa_pipeline.commands.pretrain.pretrain", fail)
    code, written = jepa("pretrain", recipe, f"data.train={with_secrets(url)}")
    assert code == 1 and "RuntimeError: cannot reach http://127.0.0.1" in written and "*** is refused" in written


def test_an_export_in_which_a_secret_is_left_is_refused(tiny, url, tmp_path, monkeypatch):
    config = tiny(f"data.train={with_secrets(url)}", f"data.cache.folder={tmp_path / 'cache'}")
    pretrain(config, Console(quiet=True))
    monkeypatch.setattr(exporting, "model_card", lambda *_: f"trained with the token {SECRETS['token']}")
    with pytest.raises(UserError, match=r"nothing is exported, because README.md would hold a password or token"):
        export(config.folder, to="jepa")
    assert not (config.folder / "export/jepa").exists()


def test_a_secret_of_a_probe_during_training_is_on_no_command_line(tmp_path, url):
    """Which every user of the machine can read."""
    arguments = ("--data", with_secrets(url))
    probing = ProbingConfig(every_steps=2, submit=False, arguments=arguments)
    assert not [word for word in probe_command(tmp_path, probing) if "Planted" in word]
    assert json.loads(probe_environment({}, probing)[PRIVATE_ARGUMENTS]) == list(arguments)
    plain = ProbingConfig(every_steps=2, submit=False, arguments=("--data", "d"))
    assert probe_command(tmp_path, plain)[-2:] == ["--data", "d"] and PRIVATE_ARGUMENTS not in probe_environment({}, plain)


def test_private_arguments_are_arguments(jepa, monkeypatch):
    monkeypatch.setenv(PRIVATE_ARGUMENTS, json.dumps(["check", "nothing.yaml"]))
    code, text = jepa("config")
    assert (
        code == 2 and text.startswith("no file nothing.yaml, and no recipe has that name") and PRIVATE_ARGUMENTS not in os.environ
    )


@pytest.mark.slow
def test_processes_of_a_run_tell_no_secret(place, recipe, url):
    """Ranks, data workers and probes of their own have streams of their own."""
    data = with_secrets(url)
    probing = ["probing.every_steps=3", "probing.submit=false", f"probing.arguments=[--data, '{data}', --test, '{data}']"]
    wandb = ["log.wandb=true", f"log.wandb_project=of {SECRETS['token']}"]
    environment = {**os.environ, "WANDB_MODE": "offline"}
    for words in (["trainer.devices=2", "data.workers=1"], [*probing, "name=b"], [*wandb, "name=c"]):
        command = [sys.executable, "-m", "jepa_pipeline", "pretrain", recipe, f"data.train={data}", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        assert not [secret for secret in SECRETS.values() if secret in done.stdout + done.stderr]
    assert holding(place) == {f"runs/{name}/config.yaml": 0o600 for name in "abc"}
