"""The documents name what exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = {path: path.read_text() for path in sorted((ROOT / "tests").rglob("*.py"))}


def test_every_fault_names_a_test_that_exists():
    rows = [line.split(" | ") for line in (ROOT / "docs/faults.md").read_text().splitlines() if line.startswith("| ")]
    faults = [row for row in rows if len(row) == 5 and row[0] != "| fault"]
    assert len(faults) > 40
    for row in faults:
        tests = re.findall(r"`(test_\w+)`", row[-1])
        assert tests, f"{row[0]}: a fault without a test is a promise"
        assert all(any(f"def {test}(" in text for text in CODE.values()) for test in tests), row


def interop_rows(document: str) -> list[list[str]]:
    """The cells of the tables that say the largest difference of a source or target."""
    tables = re.findall(r"^\|.*largest difference.*\n\|[-|]+\n((?:\|.*\n)+)", (ROOT / document).read_text(), re.MULTILINE)
    return [line.strip("| ").split(" | ") for table in tables for line in table.splitlines()]


def test_every_format_names_a_test_and_what_it_saw():
    rows = interop_rows("docs/interop.md")
    assert len(rows) > 15
    for name, _, difference, command, tests in rows:
        assert float(difference) <= 1e-5 and command.startswith("`jepa "), name
        named = re.findall(r"`(test_\w+)`", tests)
        assert named and all(any(f"def {test}(" in text for text in CODE.values()) for test in named), name
    short = interop_rows("README.md")
    assert short and [row for row in short if row not in [each[:4] for each in rows]] == []


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "slurm/README.md"])
def test_every_link_to_a_document_leads_somewhere(document):
    """Links between the pages of docs/ are checked where the site is built."""
    place = (ROOT / document).parent
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", (ROOT / document).read_text())
    assert [link for link in links if not (place / link).exists()] == []


def test_the_readme_fits_on_a_few_screens_and_shows_where_the_rest_is():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert {page for page in pages if f"(docs/{page})" not in text} == set()
