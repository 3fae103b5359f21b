"""Sweeps: the values of each key, and the names of the runs."""

import re
from collections.abc import Sequence

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.redaction import redact

OPENING, CLOSING, QUOTES = "[{(", "]})", "\"'"


def parse_sweep(sweep: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of each key.

    Raises:
        UserError: an assignment has no key or values, or a key or a value is given twice.
    """
    axes: dict[str, list[str]] = {}
    for assignment in sweep:
        key, equals, text = assignment.partition("=")
        values = split_values(text)
        if not equals or not key or not values:
            raise UserError(f"--sweep {assignment} is not KEY=VALUE,VALUE with a dotted key, such as optim.lr=1e-4,3e-4")
        if key in axes:
            raise UserError(
                f"--sweep gives {key} twice: give all its values at once, such as {key}={','.join([*axes[key], *values])}"
            )
        if key in ("name", "output"):
            raise UserError(
                f"--sweep cannot vary {key}, because every run of a sweep gets its own name in one folder: put {key}=… before "
                "--sweep to set it for all runs"
            )
        if len(set(values)) < len(values):
            raise UserError(f"--sweep {assignment} has a value twice: remove one")
        axes[key] = values
    return axes


def split_values(text: str) -> list[str]:
    """Return the values between commas that are not inside brackets or quotes; [] if one of these is not closed."""
    values, depth, quote, previous = [""], 0, "", ","
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in QUOTES and previous in OPENING + ",:":
            quote = char
        else:
            depth += (char in OPENING) - (char in CLOSING)
        if char == "," and not depth and not quote:
            values.append("")
        else:
            values[-1] += char
        previous = char if char.strip() else previous
    return [value.strip() for value in values if value.strip()] if not depth and not quote else []


def shorten_keys(keys: Sequence[str]) -> dict[str, str]:
    """Return the shortest ending of each dotted key that no other key has."""
    short = {}
    for key in keys:
        words = key.split(".")
        others = [other.split(".") for other in keys if other != key]
        count = next((n for n in range(1, len(words)) if all(other[-n:] != words[-n:] for other in others)), len(words))
        short[key] = ".".join(words[-count:])
    return short


def name_suffix(value: str) -> str:
    """Return a value as the end of a run's name, in letters, digits, '.', '_' and '-'; words start with '_'."""
    clean = re.sub(r"[^A-Za-z0-9.-]+", "_", redact(value)).strip("_") or "none"
    return clean if clean[0].isdigit() else f"_{clean}"
