"""No name, path or value of a site runs anything in the batch script before `srun`, and no secret is in what it shows."""

import random
import shlex
import subprocess

import pytest

from jepa_pipeline.cluster.sbatch import JobSpec, build_script
from jepa_pipeline.commands.submit import CommandLine, Sweep, submit_pretraining
from jepa_pipeline.config.control_characters import CONTROL
from jepa_pipeline.config.errors import ConfigError, UserError
from jepa_pipeline.config.parse import load_overrides
from jepa_pipeline.config.site import SiteConfig

MARKER = "ran"
ENDS = ("\n", "\r\n", "\n#SBATCH --wrap=", "'\n", '"', "'", "$(", "`", "; ", "&& ", "| ", "\\", " #", "\u2028", "\x85", "\t", "%j ")
TEXTS = [f"a{end}touch {MARKER}{close}" for end in ENDS for close in ("", ")", "`", "'", "\n")]
PLAIN = [text for text in TEXTS if not CONTROL.search(text)]
KEYS = ("partition", "account", "qos", "gpu_type", "constraint", "exclude", "reservation", "container", "python", "environment.A")
KEYS = (*KEYS, "extra.comment", "container_mounts")


def quoted(text):
    """A text as YAML of one line, in which every character may stand."""
    return '"' + "".join(f"\\u{ord(char):04x}" for char in text) + '"'


def site(*overrides):
    return load_overrides(SiteConfig, ["time=60", "gpus_per_node=1", *overrides])


def run_before_srun(script, folder):
    """Run a batch script up to its call of srun, and return what it created."""
    lines = script.splitlines(keepends=True)
    head = "".join(lines[: next(number for number, line in enumerate(lines) if line.startswith("srun "))])
    folder.mkdir()
    done = subprocess.run(["bash"], input=head, text=True, cwd=folder, capture_output=True, check=True)
    assert not done.stderr and not done.stdout
    return list(folder.iterdir())


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\tb", "a\x1bb", "a\u2028b", "a\x85b", "a\x00b"], ids=ascii)
def test_no_value_of_a_configuration_has_a_control_character(tiny, text):
    for key in ("output", "name", "data.train", "init_from", "log.wandb_project", "probing.arguments"):
        value = f"[{quoted(text)}]" if key == "probing.arguments" else quoted(text)
        with pytest.raises(ConfigError, match=r"no control character, such as a line break: remove it") as caught:
            tiny(f"{key}={value}")
        assert text not in str(caught.value), "it is shown escaped"
    for key in KEYS:
        with pytest.raises(ConfigError, match="no control character"):
            site("container=x", f"{key}={f'[{quoted(text)}]' if key == 'container_mounts' else quoted(text)}")
    code = quoted("if true\nthen true\nfi")
    assert site(f"setup=[{code}]").setup == ("if true\nthen true\nfi",), "which is code, of as many lines as it takes"


@pytest.mark.parametrize("count", [pytest.param(20, id="short"), pytest.param(1500, id="long", marks=pytest.mark.slow)])
def test_no_name_runs_anything_before_srun(tmp_path, count):
    """Of commands, folders and a site, with what ends a quotation, a comment or a line; nothing else would be refused."""
    generator, built = random.Random(count), 0
    for number in range(count):
        name, words, folder, value = (generator.choice(PLAIN if generator.random() < 0.9 else TEXTS) for _ in range(4))
        try:
            key = generator.choice(KEYS)
            options = site("container=x", f"{key}={f'[{quoted(value)}]' if key == 'container_mounts' else quoted(value)}")
            specs = [JobSpec(name, ["probe", words, f"--data={words}"], tmp_path / folder)]
            script = build_script(specs * generator.choice((1, 2)), options)
        except UserError as error:
            assert "control character" in str(error)
            continue
        built += 1
        assert not run_before_srun(script, tmp_path / str(number)), script
    assert count / 3 < built < count


def test_a_dry_run_of_a_hostile_recipe_runs_nothing(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = tiny(f"output={quoted(str(tmp_path / f'a; touch {MARKER}; $(touch {MARKER}) `touch {MARKER}`'))}")
    command = CommandLine(("pretrain",), (f"x.yaml\ntouch {MARKER}", f"data.train='\ntouch {MARKER}"))
    submit_pretraining(Sweep([(command, config)]), site("gpus_per_node=0"), dry_run=True)
    assert not run_before_srun(capsys.readouterr().out, tmp_path / "there")


def test_python_values_are_refused_where_the_script_is_made(tmp_path):
    """Not all values come through a configuration file: folders do not."""
    for spec in (JobSpec("a\nb", ["probe"], tmp_path), JobSpec("a", ["probe"], tmp_path / "a\nb")):
        with pytest.raises(UserError, match=r"'.*a\\nb.*' cannot be in a batch script: .* no control character"):
            build_script([spec], site())


def test_a_script_names_no_secret_but_those_that_its_job_needs(tmp_path):
    url = "https://me:Planted-1@host/x?token=Planted-2"
    options = site("environment.HF_TOKEN=Planted-3", "setup=['export DB_PASSWORD=Planted-4']")
    script = build_script([JobSpec("a", ["probe", "runs/a", "--data", url], tmp_path)], options)
    assert "Planted-1" not in script and "Planted-2" not in script
    assert [line for line in script.splitlines() if "Planted-3" in line] == ["export HF_TOKEN=Planted-3"]
    code, said = next(line for line in script.splitlines() if "Planted-4" in line).split(" || ")
    assert shlex.split(code) == ["eval", "export DB_PASSWORD=Planted-4"] and "Planted-4" not in said
