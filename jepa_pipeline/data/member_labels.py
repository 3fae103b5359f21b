"""The label of a sample in a tar, from its `.cls` or `.json` member."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple, TypeGuard

from jepa_pipeline.data.class_names import Classes, decode_text, find_label, means_no_label
from jepa_pipeline.data.sample import LABEL
from jepa_pipeline.data.tar_reader import printable

JSON = "json"
LABEL_KEYS = ("label", "cls")
"""Keys of a label in a sample's JSON."""
OTHER_KEYS = (
    "labels",
    "class",
    "class_id",
    "class_name",
    "label_id",
    "label_name",
    "category",
    "category_id",
    "target",
    "gt_label",
)
"""Keys under which others store labels: named and not read, because such a label may count from 1 or be one of several."""
MAX_TEXT_BYTES = 1_000_000
"""Size of the largest member that is read for a label."""
MAX_CLASSES = 1_000_000

ByteRange = tuple[int, int]
"""Offset in the tar and size of a member, in bytes."""


class Member(NamedTuple):
    """A file in a tar; data: its bytes if it may hold a label or is a requested medium; sparse: stored with holes."""

    key: str
    extension: str
    range: ByteRange
    data: bytes | None
    sparse: bool


class LabelError(ValueError):
    """A label that cannot be used; its text says why. number: the whole number that it is; name: the text that it is."""

    def __init__(self, reason: str, number: int | None = None, name: str | None = None) -> None:
        super().__init__(reason)
        self.number, self.name = number, name


def read_label(sample: dict[str, Member], classes: Classes | None) -> tuple[int | None, str | None]:
    """Return the label and the extension of the member that holds it.

    Raises:
        LabelError: it is not a label, or there is none although `classes` is given.
    """
    label, labeled_by, others = None, None, list[object]()
    for extension, read in ((LABEL, read_text_label), (JSON, read_json_labels)):
        for value in read(sample[extension]) if label is None and extension in sample else ():
            label, labeled_by = find_label(value, classes), extension
            if label is not None:
                break
            others.append(value)
    if label is None and others:
        name = "" if classes is None else " or the name of a class"
        raise LabelError(
            f"its label {printable(str(others[0]))!r} is not a whole number{name}", name=next(filter(is_class, others), None)
        )
    if label is None and classes is not None:
        raise LabelError(f"it has no label, neither in a .{LABEL} nor in a .{JSON}")
    limit = MAX_CLASSES if classes is None else len(classes.names)
    if label is not None and not 0 <= label < limit:
        raise LabelError(f"its label is {label}, but labels go from 0 to {limit - 1}", label)
    return label, None if label is None else labeled_by


def is_class(value: object) -> TypeGuard[str]:
    """Return whether a label may be the name of a class."""
    return isinstance(value, str) and not means_no_label(value)


def read_text_label(member: Member) -> Iterator[object]:
    text = decode_text(member.data or b"", "replace").strip()
    if text.startswith("["):  # a list of one number, as numpy prints it
        with suppress(ValueError, RecursionError):
            yield json.loads(text)
            return
    yield text


def read_json_labels(member: Member) -> Iterator[object]:
    """Yield what a sample's JSON has under the keys of a label, without null, which is not a label.

    Raises:
        LabelError: it is not readable, or has a label under another key only.
    """
    if member.data is None:
        raise LabelError(f"its json has {member.range[1]} bytes, but labels are read from up to {MAX_TEXT_BYTES}")
    try:
        values = json.loads(member.data)
    except (ValueError, RecursionError) as error:
        raise LabelError("its json is not readable JSON") from error
    if not isinstance(values, dict):
        return
    labels = [values[name] for name in LABEL_KEYS if values.get(name) is not None]
    if not labels and (other := next((name for name in OTHER_KEYS if values.get(name) is not None), None)):
        raise LabelError(f"its json has {other}, but a label is under {' or '.join(LABEL_KEYS)}")
    yield from labels
