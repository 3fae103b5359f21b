"""YAML 1.2 within limits: no text of a few bytes fills the memory, takes minutes or becomes a value that Python cannot make."""

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent, ScalarEvent

from jepa_pipeline.config.errors import first_line

MAX_BYTES = 256 * 1024
MAX_VALUES = 10_000
MAX_DEPTH = 32
"""Limits of a file or an assignment, several times those of the largest recipes; aliases count as what they stand for."""
INTEGER = re.compile(r"[-+]?(?:0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)")
DATE = re.compile(r"\d{4}-\d\d?-\d\d?(?:(?:[Tt]|[ \t]+)\d.*)?")
TEXT_TAGS = ("!", "tag:yaml.org,2002:str")


class BadYaml(ValueError):
    """A text that is not YAML, or beyond the limits: what is wrong, and its line if one is known."""

    def __init__(self, text: str, line: int = 1) -> None:
        super().__init__(text)
        self.line = line


def read_bounded(path: Path) -> str:
    """Return a file's text.

    Raises:
        BadYaml: it is longer than MAX_BYTES.
        OSError: it cannot be read.
        UnicodeDecodeError: it is not text.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    check_size(data)
    return data.decode()


def parse_bounded(text: str) -> Any:
    """Return the values of a YAML document as ruamel's, which know their lines.

    Raises:
        BadYaml: it is not YAML, or beyond the limits.
    """
    check_size(text)
    try:
        check_events(text)
        # YAML 1.2, unlike PyYAML's 1.1: `no` is a string, 1e-3 a number, 010 not octal.
        return YAML().load(text)
    except DuplicateKeyError as error:
        raise BadYaml(str(error.problem).split(" with value")[0], line_of(error)) from None
    except MarkedYAMLError as error:
        raise BadYaml(f"not YAML: {error.problem or error.context}", line_of(error)) from None
    except BadYaml:
        raise
    except (YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # ruamel has no error of its own for values that it cannot make
        raise BadYaml(f"not YAML: {first_line(error)}") from None


def check_size(content: str | bytes) -> None:
    if len(content) > MAX_BYTES:
        raise BadYaml(f"longer than {MAX_BYTES // 1024} KiB, which no configuration needs: name a recipe, or shorten the lists")


def line_of(error: MarkedYAMLError) -> int:
    return error.problem_mark.line + 1 if error.problem_mark else 1


def check_events(text: str) -> None:
    """Check depth, number and kind of a document's values before any of them is made.

    Raises:
        BadYaml: a limit is exceeded, or a value is a date, has a tag, or does not fit 64 bits.
    """
    sizes: dict[str, int] = {}  # values that an anchor stands for; 0 while they are being read
    open_anchors: list[tuple[str | None, int]] = []
    count = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        line = event.start_mark.line + 1
        if isinstance(event, CollectionEndEvent):
            anchor, before = open_anchors.pop()
            if anchor is not None:
                sizes[anchor] = count - before
            continue
        if not isinstance(event, NodeEvent):
            continue
        before, count = count, count + 1
        if isinstance(event, AliasEvent):
            if sizes.get(event.anchor) == 0:
                raise BadYaml(f"*{event.anchor} stands within what it stands for: write the values", line)
            count += sizes.get(event.anchor, 1) - 1
        elif isinstance(event, CollectionStartEvent):
            open_anchors.append((event.anchor, before))
        if isinstance(event, ScalarEvent | CollectionStartEvent):
            if event.tag is not None and event.tag not in TEXT_TAGS:
                raise BadYaml(
                    f"the tag {event.tag.replace('tag:yaml.org,2002:', '!!')} means nothing here: write the value without it", line
                )
            if event.anchor is not None:
                sizes[event.anchor] = 1 if isinstance(event, ScalarEvent) else 0
        if isinstance(event, ScalarEvent) and event.implicit[0] and not event.style:
            check_plain(event.value, line)
        if len(open_anchors) > MAX_DEPTH:
            raise BadYaml(f"nested deeper than {MAX_DEPTH} levels, but no section is: remove brackets or indentation", line)
        if count > MAX_VALUES:
            raise BadYaml(f"more than {MAX_VALUES} values, aliases written out: shorten the lists, or the aliases", line)


def check_plain(text: str, line: int) -> None:
    """Check a value without quotes, which YAML may take for a number or a date."""
    shown = text if len(text) <= 40 else f"{text[:20]}... ({len(text)} characters)"
    if INTEGER.fullmatch(text):
        digits = text.lstrip("+-").replace("_", "")
        bits = 4 * (len(digits) - 2) if digits[:2] in ("0x", "0o") else 3 * len(digits)
        if bits > 256 or abs(int(digits, {"0x": 16, "0o": 8}.get(digits[:2], 10))) >= 2**63:
            raise BadYaml(f"{shown} does not fit 64 bits: give a smaller number, or put it in quotes if it is a text", line)
    if DATE.fullmatch(text):
        raise BadYaml(f'{shown} is a date, but no value here is one: quote it, "{shown}", on a command line \'"{shown}"\'', line)
