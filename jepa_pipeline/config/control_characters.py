"""Control characters, which end lines of scripts and change what a terminal shows."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Also line separators of Unicode, and the bytes of an argument that is not UTF-8."""
RULE = "a name, path or word has no control character, such as a line break: remove it"


def escape_controls(text: str) -> str:
    """Return a text in one line, with control characters as Python writes them."""
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def with_controls(value: Any, key: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the key and text of every text within nested values, and of every key, that has a control character."""
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield from with_controls(name, key)
            yield from with_controls(entry, (*key, name))
    elif isinstance(value, list | tuple):
        for number, entry in enumerate(value):
            yield from with_controls(entry, (*key, number))
    elif isinstance(value, str) and CONTROL.search(value):
        yield key, value
