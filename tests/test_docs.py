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


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_every_link_between_documents_leads_somewhere(document):
    place = (ROOT / document).parent
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", (ROOT / document).read_text())
    assert [link for link in links if not (place / link).exists()] == []
