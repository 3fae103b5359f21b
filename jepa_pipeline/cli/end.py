"""The end of a command: its last sentence and its exit code."""

import errno
import sys
from typing import NamedTuple

from jepa_pipeline.cli.every_command import split_shared
from jepa_pipeline.config.errors import OUT_OF_MEMORY, UserError, disk_error, is_disk_error, is_out_of_memory

INTERRUPTED = 130
"""Exit code after Ctrl-C, as typer gives it."""
NO_TEMPORARY_FOLDER = "No usable temporary directory"
"""Text of Python's error, which torchmetrics meets when it is imported."""
PRINTED = (
    *("--version", "-V", "config show", "config list", "config keys"),
    *("doctor", "jobs", "logs", "shards check", "shards stats", "table"),
)
"""Commands that leave their result nowhere but on stdout."""


class Explained(NamedTuple):
    """The sentence for an error, and the exit code."""

    text: str
    code: int


def explain(error: BaseException) -> Explained | None:
    """Return the sentence for an error that the user can do something about; None for any other, whose traceback is to be seen."""
    if isinstance(error, UserError):
        return Explained(str(error), error.exit_code)
    if isinstance(error, OSError) and NO_TEMPORARY_FOLDER in str(error):
        text = "no folder of temporary files can be written to: free some space in /tmp, or set TMPDIR"
        return Explained(text, UserError.exit_code)
    if isinstance(error, OSError) and is_disk_error(error):
        return Explained(str(disk_error(error)), UserError.exit_code)
    if is_out_of_memory(error):
        return Explained(OUT_OF_MEMORY, UserError.exit_code)
    if isinstance(error, OSError) and error.filename is not None:
        return Explained(f"{error.filename} cannot be used: {error.strerror}", UserError.exit_code)
    return None


def exit_code(code: int) -> int:
    """Return the exit code, which is not 0 where the result is what was printed and part of it is lost.

    A reader that has left by itself, such as head, has lost nothing.
    """
    from jepa_pipeline.console import output_failure

    failure = output_failure()
    if failure is None or failure.errno == errno.EPIPE:
        return code
    print(f"standard output cannot be written ({failure.strerror}): part of what was printed is lost", file=sys.stderr)
    words = split_shared(sys.argv[1:]).words
    return code or int("--dry-run" in words or "--json" in words or " ".join(words[:2]).startswith(PRINTED))
