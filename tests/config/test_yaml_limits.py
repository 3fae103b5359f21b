"""No text that is given as YAML hangs, fills the memory or is a traceback: each is one sentence, at once."""

import random
import string

import pytest

from jepa_pipeline.config.bounded_yaml import MAX_BYTES, MAX_DEPTH, MAX_VALUES
from jepa_pipeline.config.errors import ConfigError, UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.parse import load_overrides
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.site import load_site
from jepa_pipeline.config.suite import load_suite

DOUBLING = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
LIMITS = {
    "doubling aliases": (DOUBLING, f"more than {MAX_VALUES} values, aliases written out"),
    "an alias of what it stands in": ("a: &a [*a]", r"\*a stands within what it stands for"),
    "brackets": ("a: " + (MAX_DEPTH + 1) * "[", f"nested deeper than {MAX_DEPTH} levels"),
    "dashes": ("a:\n" + (MAX_DEPTH + 1) * "- " + "x", f"nested deeper than {MAX_DEPTH} levels"),
    "a long list": ("a: [" + MAX_VALUES * "1," + "]", f"more than {MAX_VALUES} values"),
    "a long text": ("a: " + (MAX_BYTES + 1) * "x", f"longer than {MAX_BYTES // 1024} KiB"),
    "an integer of many digits": (f"a: {5000 * '9'}", r"9{20}\.\.\. \(5000 characters\) does not fit 64 bits"),
    "a hexadecimal one": (f"a: -0x{4000 * 'f'}", "does not fit 64 bits"),
    "an integer beyond 64 bits": (f"a: {2**63}", f"{2**63} does not fit 64 bits"),
    "a day that does not exist": ("a: 2025-02-30", '2025-02-30 is a date, but no value here is one: quote it, "2025-02-30"'),
    "a day that exists": ("a: 2025-02-28", "is a date"),
    "a tag": ("a: !!int foo", "the tag !!int means nothing here: write the value without it"),
    "a tag of one's own": ("a: !foo {b: 1}", "the tag !foo means nothing here"),
    "a control character": ("a: \a", "not YAML: .*special characters are not allowed"),
}


@pytest.mark.parametrize(("text", "says"), LIMITS.values(), ids=LIMITS)
def test_each_limit_is_one_sentence_with_its_line_in_every_file(tmp_path, text, says):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        load_config(path)
    assert len(caught.value.mistakes) == 1 and str(caught.value).startswith(f"{path}:")


@pytest.mark.parametrize(("text", "says"), LIMITS.values(), ids=LIMITS)
def test_each_limit_is_one_sentence_on_the_command_line(text, says):
    value = text.removeprefix("a: ").removeprefix("a:\n")
    with pytest.raises(UserError, match=says) as caught:
        load_overrides(ProbeConfig, [f"a={value}"])
    assert len(str(caught.value)) < 700


def test_files_of_every_kind_have_the_limits(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text(DOUBLING)
    for load in (load_config, load_site, load_suite):
        with pytest.raises(ConfigError, match="aliases written out"):
            load(path)


def test_what_is_within_the_limits_is_read(tmp_path):
    text = f"name: x\nseed: {2**63 - 1}\ndata: {{train: &here '2025-02-30'}}\noutput: *here\n"
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "a.yaml")
    assert {mistake.text.split("'")[1] for mistake in caught.value.mistakes} == {"method", "optim"}, "nothing but what is missing"


def test_files_that_extend_one_another_twice_over_are_not_all_read(tmp_path):
    for number in range(30):
        (tmp_path / f"{number}.yaml").write_text(f"extends: [{number + 1}.yaml, {number + 1}.yaml]\n")
    (tmp_path / "30.yaml").write_text("name: x\n")
    with pytest.raises(ConfigError, match="extends more than 64 files"):
        load_config(tmp_path / "0.yaml")


def test_a_file_without_an_end_is_read_to_the_limit_only():
    with pytest.raises(ConfigError, match="longer than"):
        load_config("/dev/zero")


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("method.encoder.image_size=1000000000", "less than or equal to 16384"),
        ("method.encoder={patch_size: 1, image_size: 4096}", "1x4096x4096 tokens are more than 65536"),
        ("method.encoder.frames=1000000000", "less than or equal to 4096"),
        ("method.masks.num_targets=1000000000", "less than or equal to 64"),
        ("views.crops=[{count: 1000000000}]", "less than or equal to 1024"),
        ("data.workers=1000000000", "less than or equal to 1024"),
        ("data.prefetch_batches=1000000000", "less than or equal to 1024"),
        ("trainer.devices=1000000000", "less than or equal to 1024"),
    ],
)
def test_a_number_with_zeros_too_many_is_a_sentence(tiny, assignment, says):
    with pytest.raises(ConfigError, match=says):
        tiny(assignment)


PIECES = (
    *("&a ", "*a", "<<: ", "!!int ", "!!python/x ", "!foo ", "[", "{", "]", "}", ": ", "- ", "\n", "  ", '"', "'", "|", ">"),
    *("%YAML 1.1\n", "---\n", "...\n", "? ", "1e999", "0x", "0o9", ".inf", ".nan", "~", "2025-13-45", "9" * 50, "+1", "1_0_"),
    *("1:2:3", "=", "#", "\t", "\a", "\u2028", "é", "@", "`", "\\x", "name: ", "data: ", "train: ", "extends: ", "!!set ", "! "),
    *("!!omap ", "!!timestamp ", "!!binary ", "!<tag:x> ", "!!map "),
)


def sample_text(generator):
    pieces = [*PIECES, *string.ascii_letters]
    return "".join(generator.choice(pieces) for _ in range(generator.randrange(1, 12)))


@pytest.mark.parametrize("count", [pytest.param(60, id="short"), pytest.param(5000, id="long", marks=pytest.mark.slow)])
def test_no_text_is_a_traceback(tmp_path, count):
    generator, path = random.Random(count), tmp_path / "recipe.yaml"
    keys = ["name", "seed", "data.train", "optim", "views.crops", "a.b", "method.encoder"]
    recipe = "name: x\ndata: {train: data}\nmethod: {name: ijepa}\noptim: {batch_size_global: 8}\n"
    for _ in range(count):
        text, place = sample_text(generator), generator.randrange(len(recipe))
        path.write_text(recipe[:place] + text + recipe[place:])
        for overrides in ([], [f"{generator.choice(keys)}={text}"]):
            try:
                load_config(path, overrides)
            except UserError as error:
                assert "\a" not in str(error) and "\u2028" not in str(error)
