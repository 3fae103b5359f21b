"""The values of a sweep: which keys take which, and how the runs are named after them."""

import re
from collections.abc import Sequence

from jepa_pipeline.config.errors import UserError

OPENING, CLOSING, QUOTES = "[{(", "]})", "\"'"


def read_axes(sweep: Sequence[str]) -> dict[str, list[str]]:
    """The values of each key.

    Raises:
        UserError: an assignment is none, or a key or a value is there twice.
    """
    axes: dict[str, list[str]] = {}
    for assignment in sweep:
        key, equals, text = assignment.partition("=")
        values = split_values(text)
        if not equals or not key or not values:
            raise UserError(f"--sweep {assignment} is not KEY=VALUE,VALUE with a dotted key, such as optim.lr=1e-4,3e-4")
        if key in axes:
            raise UserError(
                f"--sweep gives {key} twice: say all its values at once, such as {key}={','.join([*axes[key], *values])}"
            )
        if key in ("name", "output"):
            raise UserError(
                f"--sweep cannot be over {key}, for every run of a sweep is given its own name, in one folder: put {key}=… before "
                "--sweep to set it for all"
            )
        if len(set(values)) < len(values):
            raise UserError(f"--sweep {assignment} has a value twice: leave one out")
        axes[key] = values
    return axes


def split_values(text: str) -> list[str]:
    """The values between commas; those inside brackets, braces and quotes belong to a value. None where these are not closed."""
    values, depth, quote, before = [""], 0, "", ","
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in QUOTES and before in OPENING + ",:":
            quote = sign
        else:
            depth += (sign in OPENING) - (sign in CLOSING)
        if sign == "," and not depth and not quote:
            values.append("")
        else:
            values[-1] += sign
        before = sign if sign.strip() else before
    return [value.strip() for value in values if value.strip()] if not depth and not quote else []


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Of each key as many of its last words as tell it from the others."""
    short = {}
    for key in keys:
        words = key.split(".")
        others = [other.split(".") for other in keys if other != key]
        count = next((n for n in range(1, len(words)) if all(other[-n:] != words[-n:] for other in others)), len(words))
        short[key] = ".".join(words[-count:])
    return short


def joined(value: str) -> str:
    """A value as the end of a name: of letters, digits, '.', '_' and '-', and set off where it is a word."""
    clean = re.sub(r"[^A-Za-z0-9.-]+", "_", value).strip("_") or "none"
    return clean if clean[0].isdigit() else f"_{clean}"
