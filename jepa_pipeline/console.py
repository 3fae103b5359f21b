"""Printing to the terminal, which may go away at any time: a pipe whose reader left, a lost connection, a full disk under a log."""

import io
import json
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


COMMAND = "JEPA_COMMAND"
"""Variable with the command line that the user typed, as JSON, in processes that our launcher has started."""


def typed_command() -> list[str]:
    """Return the command line that the user typed."""
    words = os.environ.get(COMMAND)
    return json.loads(words) if words else sys.argv


def print_plain(console: "Console | None", text: str) -> None:
    """Print text as it is, to stdout if there is no console: rich neither wraps nor highlights it, nor reads [paths] as markup."""
    from rich.console import Console

    (console or Console()).print(text, soft_wrap=True, markup=False, highlight=False)


class LastingFile(io.FileIO):
    """A standard stream whose failures are no errors: what cannot be written is lost.

    Attributes:
        failure: the first error.
    """

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write all of the data, as far as it can be; return its length."""
        left = memoryview(data).cast("B")
        length = len(left)
        try:
            while left:
                written = super().write(left)
                if written is None:  # a full pipe, which another program has set not to block
                    select.select([], [self], [])
                else:
                    left = left[written:]
        except OSError as error:
            self.failure = self.failure or error
        return length


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Call keep_streams, and give back the streams of before at the end."""
    before = sys.stdout, sys.stderr
    keep_streams()
    try:
        yield
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        sys.stdout, sys.stderr = before


def keep_streams() -> None:
    """Let no failure of stdout and stderr be an error from here on, nor a character that their encoding lacks.

    Streams with which a notebook or a test has replaced them stay as they are.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file to be opened would get this number, and all that C code prints to it
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        stream = getattr(sys, name)
        if number == 0 or not (stream is None or is_standard(stream, number)):
            continue
        file = LastingFile(number, "wb", closefd=False)
        if stream is None:
            options: dict[str, Any] = {"encoding": "utf-8"}
        else:
            options = {name: getattr(stream, name) for name in ("encoding", "line_buffering", "write_through")}
            with suppress(OSError):
                stream.flush()
        buffer = file if options.get("write_through") else io.BufferedWriter(file)
        setattr(sys, name, io.TextIOWrapper(buffer, errors="backslashreplace", **options))  # pyright: ignore[reportArgumentType]


def is_standard(stream: Any, number: int) -> bool:
    """Return whether a stream is Python's own on this descriptor."""
    file = file_below(stream)
    return isinstance(file, io.FileIO) and not isinstance(file, LastingFile) and not file.closed and file.fileno() == number


def file_below(stream: Any) -> Any:
    """Return what a text stream writes to in the end."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def output_failure() -> OSError | None:
    """Return why some of what was printed to stdout is lost; None if nothing is."""
    file = file_below(sys.stdout)
    if not isinstance(file, LastingFile):
        return None
    sys.stdout.flush()
    return file.failure
