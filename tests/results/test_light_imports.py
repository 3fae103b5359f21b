"""Results are read without torch, so that tables appear at once."""

import subprocess
import sys

import pytest

from jepa_pipeline.version import PACKAGE

MODULES = sorted(f"jepa_pipeline.results.{path.stem}" for path in (PACKAGE / "results").glob("*.py") if path.stem != "__init__")
HEAVY = ("torch", "timm", "lightning", "scipy", "matplotlib")


@pytest.mark.parametrize("modules", [["jepa_pipeline.commands.table"], MODULES], ids=["jepa table", "results"])
def test_results_load_without_torch(modules):
    code = f"import sys\nfor name in {modules}: __import__(name)\nprint([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
