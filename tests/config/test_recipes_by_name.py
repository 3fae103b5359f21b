"""Recipes, suites and sites of this package are found by name, from anywhere; a local file of that name comes first."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from jepa_pipeline.cli.config import config_list
from jepa_pipeline.cluster.records import JobRecord
from jepa_pipeline.commands.copy_recipe import copy_recipe, standalone
from jepa_pipeline.commands.list_recipes import describe, list_recipes
from jepa_pipeline.config.errors import ConfigError, UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.parse import build, read_yaml
from jepa_pipeline.config.recipes import find_file, kind_of, names_of, note_local, shipped_files
from jepa_pipeline.config.render import to_yaml
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.site import load_site, site_reference
from jepa_pipeline.config.suite import load_suite
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.results.run_summary import load_config_or_command

ROOT = Path(__file__).parents[2]
RECIPES = names_of("recipe")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    note_local.cache_clear()  # else only the first test of a process that uses a local file would see what is said of it
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["ijepa_vits16", "debug/vjepa", "byol_resnet50"])
def test_a_name_is_the_recipe_of_the_package(name):
    assert load_config(name) == load_config(ROOT / "configs" / f"{name}.yaml")


def test_a_suite_and_a_site_are_found_by_short_and_full_name():
    assert load_suite("demo") == load_suite("suites/demo") == load_suite(ROOT / "configs/suites/demo.yaml")
    assert load_site("a100") == load_site("sites/a100") == load_site(ROOT / "slurm/a100.yaml")


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        ("ijepa_vits6", "recipe", r"no file ijepa_vits6 - did you mean ijepa_vits16, .* or .*\?"),
        ("configs/debug/vjepa.yaml", "recipe", r"did you mean debug/vjepa\?"),
        ("ijepa_vith14.yaml", "recipe", r"did you mean ijepa_vith14\?"),
        ("suites/demo", "recipe", "no recipe has that name: `jepa config list` shows all"),
        ("deom", "suite", r"did you mean demo\?"),
        ("a1000", "site", r"did you mean a100 or h100\?"),
        ("a100", "recipe", "no recipe has that name"),
        ("optim.lr=1", "recipe", "stands where the recipe should: name a recipe first, such as ijepa_vits16"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(given, kind, says):
    with pytest.raises(UserError, match=says):
        find_file(given, kind)


@pytest.mark.parametrize("local", ["ijepa_vits16", "ijepa_vits16.yaml"])
def test_a_local_file_or_copy_comes_first_and_that_is_said(local, elsewhere, capsys):
    (elsewhere / local).write_text("extends: [debug/ijepa]\nname: mine\n")
    assert load_config("ijepa_vits16").name == "mine"
    assert load_config("ijepa_vits16", ["seed=1"]).name == "mine"
    said = capsys.readouterr().err
    assert said.startswith(f"{local} is used, and not the recipe of that name") and said.count("\n") == 1


def test_a_local_run_folder_comes_first(elsewhere):
    (elsewhere / "ijepa_vits16").mkdir()
    with pytest.raises(UserError, match=r"ijepa_vits16 is a folder without a config\.yaml"):
        load_config("ijepa_vits16")
    (elsewhere / "ijepa_vits16/config.yaml").write_text(to_yaml(load_config("debug/ijepa")))
    assert load_config("ijepa_vits16").method == load_config("debug/ijepa").method


def test_a_folder_is_no_suite_or_site(elsewhere, capsys):
    (elsewhere / "demo").mkdir()
    assert load_suite("demo").name == "demo" and not capsys.readouterr().err


def test_a_recipe_extends_those_of_the_package_by_name(elsewhere):
    (elsewhere / "mine.yaml").write_text("extends: [parts/views_byol, ijepa_vits16]\nname: mine\n")
    mine = load_config("mine.yaml")
    assert mine.method == load_config("ijepa_vits16").method
    assert build(RunConfig, read_yaml(elsewhere / "mine.yaml", RunConfig)).about is None, "it describes ijepa_vits16"
    (elsewhere / "typo.yaml").write_text("extends: [part/views_byo]\n")
    with pytest.raises(ConfigError, match=r"extends part/views_byo, but there is no file .* did you mean parts/views_byol\?"):
        load_config("typo.yaml")


def test_a_named_site_is_named_in_jobs_too_and_a_file_by_its_whole_path(elsewhere):
    (elsewhere / "here.yaml").write_text("time: 60\n")
    assert site_reference(Path("a100")) == "a100"
    assert site_reference(Path("here.yaml")) == str(elsewhere / "here.yaml")


def test_a_run_whose_job_waits_is_read_from_its_command_line(elsewhere, monkeypatch):
    command = ("pretrain", "debug/ijepa", "name=waiting")
    job = JobRecord(
        id="1", name="x", command=command, cwd=elsewhere, folder=elsewhere / "jobs", submitted=datetime.now(UTC), log="x.log"
    )
    monkeypatch.chdir(ROOT)
    problems = list[str]()
    config = load_config_or_command(elsewhere / "runs/waiting", job, problems)
    assert config == load_config("debug/ijepa", ["name=waiting"]) and problems == []


LOADERS = {"part": None, "recipe": load_config, "suite": load_suite, "site": load_site}


@pytest.mark.parametrize("name", shipped_files())
def test_the_text_of_a_copy_has_the_same_values(name, elsewhere):
    source, copy, load = shipped_files()[name], elsewhere / "mine.yaml", LOADERS[kind_of(name)]
    copy.write_text(standalone(source, name, copy))
    assert load is None or load(copy) == load(source)
    assert "about:" not in copy.read_text() and f"configs/{name}.yaml" not in copy.read_text()


@pytest.mark.parametrize("name", ["debug/simclr", "parts/debug", "suites/demo", "a100"])
def test_a_copy_names_its_schema(name, elsewhere, capsys):
    copy = copy_recipe(name, elsewhere / "new/mine.yaml")
    first, second, *_ = copy.read_text().splitlines()
    schema = json.loads((copy.parent / first.removeprefix("# yaml-language-server: $schema=")).read_text())
    assert schema["title"].startswith("jepa_pipeline ") and " of jepa_pipeline 0." in second
    assert str(copy) in capsys.readouterr().out


def test_a_copy_overwrites_nothing(elsewhere, capsys):
    copy_recipe("demo", elsewhere)
    assert (elsewhere / "demo.yaml").is_file()
    for path, says in ((None, "demo.yaml exists and is not overwritten"), (Path("demo.txt"), "no name of a YAML file")):
        with pytest.raises(UserError, match=says):
            copy_recipe("demo", path)
    (elsewhere / "jepa-site.schema.json").write_text("mine")
    with pytest.raises(UserError, match="is not a schema of this package"):
        copy_recipe("a100")
    assert not (elsewhere / "a100.yaml").exists()
    with pytest.raises(UserError, match=r"named a1000 - did you mean a100 or h100\?"):
        copy_recipe("a1000")


def test_the_list_has_every_recipe_once(capsys):
    config_list(as_json=True)
    rows = json.loads(capsys.readouterr().out)["recipes"]
    assert [row["name"] for row in rows] == RECIPES
    list_recipes()
    table = capsys.readouterr().out
    assert all(re.search(rf"^{name} ", table, re.MULTILINE) for name in RECIPES)
    assert "sites: a100, generic, h100" in table


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_recipe_says_of_itself_is_true(name):
    """Its result is in docs/results.md and its header, its parameters are those of the encoder that it exports."""
    row, header = describe(name), shipped_files()[name].read_text().split("\nabout:")[0]
    results = (ROOT / "docs/results.md").read_text()
    assert (row["measured"] is not None) == ("Measured at commit" in header)
    for number in re.findall(r"\d+\.\d", row["measured"] or ""):
        assert number in results and number in header, number
    with torch.device("meta"):
        encoder = build_method(load_config(name).method).encoder_to_export
    assert float(f"{sum(p.numel() for p in encoder.parameters()) / 1e6:.3g}") == pytest.approx(row["parameters"], rel=5e-3)
