"""The choice of a level in a stack of encoders."""

from typing import Literal

from jepa_pipeline.config.errors import UserError

Level = int | Literal["all"]
"""Number of a level, counted from 1; "all": the concatenated features of all levels."""


def parse_level(text: str) -> Level:
    """Return the level that an option of the command line gives.

    Raises:
        UserError: it is neither a level's number nor "all".
    """
    if text == "all":
        return "all"
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--level {text}: levels are counted from 1: give a number such as 1, or all")
    return int(text)
