"""Printing to the terminal, which may go away at any time: a pipe whose reader left, a lost connection, a full disk under a log.

Results go to stdout; so do notes, which --quiet hides, unless --json leaves stdout to the result. Progress goes to stderr.
"""

import io
import json
import logging
import os
import select
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from rich.console import Console


LogLevel = Literal["debug", "info", "warning", "error"]
LOG_LEVEL = "JEPA_LOG_LEVEL"
"""Variable with what is printed besides results, for this process and those that it starts: debug adds the logs of libraries,
warning leaves out notes and progress, error also warnings."""
WARNING = "warning: "
"""Start of a line that is a warning."""
PRINT_INTERVAL_S = 30.0
"""Seconds between two lines of progress where there is no terminal."""
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


def set_log_level(level: LogLevel) -> None:
    """Set what is printed besides results; see LOG_LEVEL."""
    os.environ[LOG_LEVEL] = level
    if level == "debug":
        logging.basicConfig(level=logging.DEBUG)
    if level == "error":
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")


def is_printed(level: LogLevel) -> bool:
    """Return whether lines of a level are printed."""
    levels: list[str] = ["debug", "info", "warning", "error"]
    least = os.environ.get(LOG_LEVEL, "info")
    return levels.index(level) >= levels.index(least if least in levels else "info")


def note(text: str, console: "Console | None" = None) -> None:
    """Print lines that are not the result of a command, as far as the log level lets them."""
    for line in text.split("\n"):
        if is_printed("warning" if line.startswith(WARNING) else "info"):
            print_plain(console, line)


@contextmanager
def json_alone(wanted: bool) -> Iterator[Callable[[Any], None]]:
    """Yield a function that prints a value as JSON on stdout, where meanwhile nothing else is; unless it is wanted, do nothing."""
    if not wanted:
        yield lambda _: None
        return
    stdout = sys.stdout
    with redirect_stdout(sys.stderr):
        yield lambda value: print(json.dumps(value, indent=1), file=stdout)


Item = TypeVar("Item")


@contextmanager
def show_progress(title: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield a function that counts finished parts: a bar on a terminal, elsewhere a line every half minute, both on stderr."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not is_printed("info"):
        yield lambda _: None
    elif console.is_terminal:
        with Progress(console=console) as bar:
            task = bar.add_task(title, total=total, completed=done)
            yield lambda count: bar.advance(task, count)
    else:
        yield ProgressLines(title, total, done).advance


class ProgressLines:
    """Progress for a log: a line every half minute."""

    def __init__(self, title: str, total: int, done: int) -> None:
        self.title, self.total, self.done, self.first = title, total, done, done
        self.started_s = self.printed_s = time.monotonic()

    def advance(self, count: int) -> None:
        """Count finished parts, and print a line if it is time."""
        self.done += count
        now = time.monotonic()
        if now - self.printed_s >= PRINT_INTERVAL_S:
            self.printed_s = now
            left_s = (now - self.started_s) / (self.done - self.first) * (self.total - self.done)
            text = f"{self.title}: {self.done:,} of {self.total:,}, about {describe_seconds(left_s)} left"
            print(text, file=sys.stderr, flush=True)


def track(items: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """Yield the items, and show how many are done."""
    iterator = iter(items)  # before a bar has a thread: a loader forks its workers here
    with show_progress(title, total) as advance:
        for item in iterator:
            yield item
            advance(1)


def describe_seconds(seconds: float) -> str:
    """Return a duration in the two largest units that people would say, such as "3 h 20 min"."""
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} days {hours} h"


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
