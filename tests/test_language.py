"""The language of the code: sentences that say what a function does, American spelling, and the field's words for things."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "jepa_pipeline").rglob("*.py"))
PROSE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "slurm").rglob("*.md")]
RECIPES = [*(ROOT / "configs").rglob("*.yaml"), *(ROOT / "slurm").rglob("*.yaml")]
# removed.py lists former keys as they were spelled
TEXTS = [*(path for path in PACKAGE if path.name != "removed.py"), *sorted((ROOT / "tools").glob("*.py")), *PROSE, *RECIPES]

OPENINGS = re.compile(r"(What|Whether|Of|Which|Whose|Those|That|How|Where)\b")
BRITISH = re.compile(
    r"\w*(?:normalis|regularis|optimis(?!t|m)|initialis|parallelis(?!m)|summaris|serialis|standardis|minimis|maximis|colour|behaviour"
    r"|neighbour|favour|labelled|grey\b|centre\b|centred)\w*",
    re.IGNORECASE,
)
PRIVATE = {
    r"dealt|deal out": "sharded, divided",
    r"unless said": "default: ...",
    r"go(?:es)? on with|goes on": "continue, resume",
    r"mend(?:s|ed)?": "fix",
    r"drawn (?:images|shapes|clips|videos|pictures|data)": "synthetic, generated",
    r"beside one another": "concatenated, side by side",
    r"on top of one another": "stacked",
    r"laid over": "overrides",
}
"""Words that a reader of torch, timm and the papers would not guess, and what to write instead."""


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("path", PACKAGE, ids=names(PACKAGE))
def test_docstrings_begin_with_what_a_thing_is_or_does(path):
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(path.read_text())):
        statements = node.body if isinstance(node, kinds) else []
        texts = [line.value.value for line in statements if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)]
        for text in filter(lambda text: isinstance(text, str), texts):  # also those below attributes and constants
            assert not OPENINGS.match(text.strip()), (
                f"{path}: {text.strip().splitlines()[0]!r} is a noun clause: say what it is, does or returns"
            )


@pytest.mark.parametrize("path", TEXTS, ids=names(TEXTS))
def test_words_are_american_and_the_fields(path):
    text = path.read_text()
    assert not (found := BRITISH.search(text)), f"{path}: {found[0]!r} is British: torch and timm write American English"
    for word, instead in PRIVATE.items():
        found = re.search(rf"\b(?:{word})\b", text, re.IGNORECASE)
        assert not found, f"{path}: {found[0]!r} is nobody else's word: write {instead}"


INSTALLED = re.compile(r"pip install ([^`\\\"]+)")
ON_AN_INDEX = {"transformers", "imagecodecs", "huggingface_hub", "vizdoom"}


def requirements():
    """Names of the packages that this one depends on, all of which are on an index."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(name for names in project["optional-dependencies"].values() for name in names)]
    return {re.match(r"[\w-]+", name)[0] for name in wanted}


def test_messages_install_packages_that_an_index_has():
    """This package is on none, nor are its extras; a clone may be elsewhere."""
    known = (requirements() | ON_AN_INDEX) - {"jepa_pipeline"}
    for path in PACKAGE:
        for wanted in INSTALLED.findall(path.read_text()):
            names = re.findall(r"[\w.-]+(?:\[[\w,]+\])?", wanted.split(",")[0].split(":")[0].replace("'", ""))
            assert names[0] in known or "{" in wanted, f"{path}: pip install {wanted}"
