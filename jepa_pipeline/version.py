"""The version of this package, which every result records, and where the package is."""

from pathlib import Path

__version__ = "0.1.0"
PACKAGE = Path(__file__).parent
"""The folder of the package's source files."""
