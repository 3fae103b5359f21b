"""Which level of a stack of encoders is meant."""

from typing import Literal

from jepa_pipeline.config.errors import UserError

Level = int | Literal["all"]
"""Counted from 1; all: every level's features beside one another."""


def read_level(text: str) -> Level:
    """A level as it is given on a command line.

    Raises:
        UserError: it is none.
    """
    if text == "all":
        return "all"
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--level {text}: levels are counted from 1: give a number such as 1, or all")
    return int(text)
