"""The documentation as a site: it is built without network, and says of keys and commands only what exists."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from jepa_pipeline.cli import app
from jepa_pipeline.cli.cluster import rewrite_submit
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.published import ImportSettings
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.section import section_types
from jepa_pipeline.config.site import SiteConfig
from jepa_pipeline.config.suite import SuiteConfig

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))  # as scripts find each other

import docs_figures  # noqa: E402
import docs_reference  # noqa: E402

DOCUMENTS = [ROOT / "README.md", ROOT / "slurm/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SETTINGS = {"probe": ProbeConfig, "import": ImportSettings}
"""Sections that KEY=VALUE means after a command; others take those of a run."""


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    # an unreachable proxy: whoever asks for the network fails
    offline = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **offline})
    assert done.returncode == 0, done.stdout + done.stderr  # --strict: a link or anchor that leads nowhere is an error
    return folder


def test_the_site_has_every_page_and_loads_nothing_from_elsewhere(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert {
        page
        for page in {*pages, *(Path(name).with_suffix(".html") for name in docs_reference.pages())}
        if not (site / page).exists()
    } == set()
    loaded = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=["']?(https?:|//)""")
    imported = re.compile(r"""@import|url\(["']?(?:https?:|//)""")
    for path in site.rglob("*.html"):
        assert not (found := loaded.search(path.read_text())), f"{path}: {found[0]}"
    for path in site.rglob("*.css"):
        assert not (found := imported.search(path.read_text())), f"{path}: {found[0]}"


def test_the_site_names_the_functions_of_the_api_with_their_text(site):
    page = (site / "reference/python.html").read_text()
    for name in (
        "load_config",
        "pretrain",
        "probe",
        "embed",
        "export",
        "import_weights",
        "load_encoder",
        "load_method",
        "features",
        "Method",
    ):
        assert f'.{name}"' in page, name


@pytest.mark.parametrize(
    "page, root",
    [("recipe", RunConfig), ("probe", ProbeConfig), ("suite", SuiteConfig), ("site", SiteConfig), ("import", ImportSettings)],
)
def test_every_key_has_a_row_with_its_meaning(page, root):
    text = docs_reference.pages()[f"reference/{page}.md"]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    known = {(row[0].strip("`").rpartition(".")[2], row[-1]) for row in rows}
    assert all(len(row) == 4 and all(row[:2]) for row in rows)
    sections, seen = [root], set()
    while sections:
        section = sections.pop()
        if section in seen:
            continue
        seen.add(section)
        for name, field in section.model_fields.items():
            assert (name, field.description.replace("|", "\\|")) in known, f"{section.__name__}.{name}"
            sections += section_types(field.annotation)
    anchors, targets = re.findall(r"\{#(\S+)\}", text), re.findall(r"\]\(#([^)]+)\)", text)
    assert len(anchors) == len({*anchors}) and {*targets} <= {*anchors}


def test_every_command_has_a_table_with_its_options():
    text = docs_reference.pages()["reference/commands.md"]
    leaves = dict(docs_reference.leaves(typer.main.get_command(app), ("jepa",)))
    assert len(leaves) > 20
    for words, command in leaves.items():
        (section,) = re.findall(rf"^## {' '.join(words)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                assert f"`{parameter.opts[0]}`" in section and parameter.help.replace("|", "\\|") in section, parameter.name


@pytest.mark.parametrize("name", docs_figures.FIGURES)
def test_figures_are_what_their_script_draws(name):
    assert (ROOT / f"docs/figures/{name}.svg").read_text() == docs_figures.FIGURES[name](), "run python tools/docs_figures.py"


def command_lines(text):
    """The `jepa` commands of a document: lines of its blocks, and words in its sentences."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [part for block in fenced for line in block.splitlines() for part in line.split("&&")]
    inline = [" ".join(words.split()) for words in re.findall(r"`(jepa [^`]+)`", prose)]
    return [line.split("  #")[0].strip() for line in [*lines, *inline] if re.match(r"\s*jepa [a-z]", line)]


def is_key(section, parts):
    """Whether a dotted key leads somewhere: to a value, a section, or into a mapping."""
    name, *rest = parts
    if name not in section.model_fields:
        return False
    below = section_types(section.model_fields[name].annotation)
    rest = rest[1:] if rest and (rest[0].isdigit() or rest[0] == "N") else rest
    return not rest or not below or any(is_key(part, rest) for part in below)


def parse(line):
    """Check the words of a command line: command, options, keys."""
    words = shlex.split(line)[1:]
    words = rewrite_submit(words) or words
    command, path = typer.main.get_command(app), []
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, f"{line}: there is no such command"
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    context = command.context_class(command, info_name=" ".join(path), **command.context_settings)
    values, _, _ = command.make_parser(context).parse_args([*words])  # raises for an option that does not exist
    if path == ["submit"]:
        inner = [*map(str, values["words"] or [])]
        if inner and inner[0].islower():  # else a placeholder, such as COMMAND
            parse(shlex.join(["jepa", *inner]))
        return
    for word in words:
        if re.match(r"[a-z_0-9.]+=", word):
            key = word.partition("=")[0]
            assert is_key(SETTINGS.get(path[0], RunConfig), key.split(".")), f"{line}: there is no key {key}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_every_command_in_a_document_exists_with_its_options_and_keys(document):
    for line in command_lines(document.read_text()):
        parse(line)


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_every_key_and_recipe_in_a_document_exists(document):
    text = document.read_text()
    for key in re.findall(r"`([a-z]+(?:\.[a-z0-9_N]+)+)(?:[=:\[][^`]*)?`", text):
        first = key.partition(".")[0]
        if first in RunConfig.model_fields:
            assert is_key(RunConfig, key.split(".")), f"there is no key {key}"
    for path in re.findall(r"\bconfigs/[a-z0-9_/]+\.yaml", text):
        assert (ROOT / path).exists(), path
