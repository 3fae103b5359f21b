"""The choice of a level in a stack of encoders."""

from typing import Literal

Level = int | Literal["all"]
"""Number of a level, counted from 1; "all": the concatenated features of all levels."""
