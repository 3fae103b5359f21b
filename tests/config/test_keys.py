"""Every key has a type, a unit where it is a number with one, a default and a description, for people and for editors."""

import json
import re

import jsonschema
import pytest

from jepa_pipeline.cli.config import config_keys
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.keys import TREES, all_keys
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.parse import dotted_keys, parse_file, to_plain
from jepa_pipeline.config.recipes import kind_of, shipped_files
from jepa_pipeline.config.schema import file_schema
from jepa_pipeline.config.section import flatten

ROWS = all_keys()


def test_every_key_is_there_and_has_a_description():
    for tree, model in TREES.items():
        listed = {re.sub(r"\.N\b", "", row.key) for row in ROWS if row.tree == tree}
        assert listed == set(dotted_keys(model)), tree
    assert [row for row in ROWS if not row.description.endswith(".") or not row.type] == []


@pytest.mark.parametrize("name", ["ijepa_vits16", "simclr_resnet50", "hjepa_vizdoom", "vjepa2_vitl16"])
def test_the_keys_of_a_recipe_are_listed_for_its_method(name):
    config = load_config(name)
    known = {row.key: row for row in all_keys("recipe")}
    for key in dict(flatten(config.model_dump(mode="json"))):
        plain = re.sub(r"\.\d+(?=\.|$)", ".N", key)
        assert plain in known or plain.rpartition(".")[0] in known, key  # args of a timm network are a mapping
    (lr,) = (row for row in all_keys("optim.lr") if not row.only or config.optim.name in row.only)
    assert lr.type == "number > 0"


@pytest.mark.parametrize(
    ("key", "unit"),
    [
        ("recipe:optim.total_samples", "samples"),
        ("recipe:trainer.stuck_s", "seconds"),
        ("recipe:checkpoint.every_steps", "optimizer steps"),
        ("recipe:checkpoint.every_minutes", "minutes"),
        ("recipe:method.encoder.patch_size", "pixels"),
        ("recipe:data.cache.limit_gb", "GB"),
        ("probe:attentive.memory_gb", "GB"),
        ("site:memory_gb", "GiB"),
        ("site:signal_s", "seconds"),
        ("recipe:optim.lr", ""),
        ("recipe:log.wandb", ""),
        ("recipe:method.levels.N.encoder.stride", ""),
    ],
)
def test_units(key, unit):
    assert {row.unit for row in ROWS if f"{row.tree}:{row.key}" == key} == {unit}


def test_a_unit_in_words_is_the_units_column():
    """A description that begins with a unit, such as "Seconds", is of a key with that unit."""
    words = {"Seconds": "seconds", "Minutes": "minutes", "Optimizer steps": "optimizer steps", "Samples": "samples"}
    for row in ROWS:
        for word, unit in words.items():
            if row.description.startswith(f"{word} ") and row.key != "method.queue_start_steps":
                assert row.unit == unit, row


def test_a_section_is_chosen_by_its_name_or_number():
    assert {row.key for row in all_keys("views.crops.0.blur")} == {
        f"views.crops.N.blur{end}" for end in ("", ".probability", ".sigma")
    }
    assert {row.tree for row in all_keys("site")} == {"site"}
    with pytest.raises(UserError, match=r"no section or key optm - did you mean optim\?"):
        all_keys("optm")
    with pytest.raises(UserError, match="the sections are recipe, probe, suite, site, data, views, method"):
        all_keys("zzz")


def test_keys_are_json_too(capsys):
    config_keys("trainer", as_json=True)
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)["keys"]}
    assert rows["trainer.silent_s"] | {"description": ""} == {
        "tree": "recipe",
        "key": "trainer.silent_s",
        "only": [],
        "type": "number >= 1",
        "unit": "seconds",
        "required": False,
        "default": 60.0,
        "description": "",
    }
    with pytest.raises(UserError, match="--schema is of a whole file"):
        config_keys("trainer", schema=True)


@pytest.fixture(scope="module")
def validators():
    return {tree: jsonschema.Draft202012Validator(file_schema(tree)) for tree in TREES}


@pytest.mark.parametrize("name", shipped_files())
def test_every_file_of_the_package_fits_its_schema(name, validators):
    kind = kind_of(name)
    values = to_plain(parse_file(shipped_files()[name]))
    assert [error.message for error in validators["recipe" if kind == "part" else kind].iter_errors(values)] == []


@pytest.mark.parametrize(
    ("tree", "values"),
    [
        ("recipe", {"optim": {"lrr": 1}}),
        ("recipe", {"optim": {"lr": "fast"}}),
        ("recipe", {"method": {"name": "ijepaa"}}),
        ("recipe", {"seed": 1.5}),
        ("recipe", {"trainer": {"precision": "fp16"}}),
        ("site", {"partitoin": "gpu"}),
        ("suite", {"settings": {"k": 5}}),
        ("probe", {"extends": ["x"]}),
    ],
)
def test_a_schema_refuses_what_is_wrong(tree, values, validators):
    assert list(validators[tree].iter_errors(values))


@pytest.mark.parametrize(
    "values",
    [
        {"data": {"train": "data/a"}},
        {"data": {"train": [{"path": "data/a", "weight": 3}, "data/b"]}},
        {"optim": {"total_samples": "1_281_167"}},
        {"extends": "ijepa_vits16", "method": {"ema": [0.9, 1.0]}},
    ],
)
def test_a_schema_accepts_every_form(values, validators):
    assert list(validators["recipe"].iter_errors(values)) == []
