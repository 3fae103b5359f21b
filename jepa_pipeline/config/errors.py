"""Mistakes of the user, reported as one sentence each with the value, the rule and the cure, and without a traceback."""

import errno
from typing import NamedTuple

from jepa_pipeline.config.control_characters import escape_controls
from jepa_pipeline.redaction import redact

KEPT = "what was complete before is as it was"
CURES = {
    errno.ENOSPC: "free some space on its disk (df -h; where that shows some, df -i)",
    errno.EDQUOT: "your quota of its disk is used up: delete or move files",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f), or write to a disk that takes larger ones",
    errno.EROFS: "its disk is mounted read-only: have it repaired, or write elsewhere",
    errno.EIO: "its disk or the connection to it fails: have it repaired, or write elsewhere",
}
"""Sentences on what helps where a disk refuses a file, by the number of the error."""
OUT_OF_MEMORY = (
    "the memory is not enough, or a limit is too low (ulimit -v and -u, a container's, --mem of the job): give it more, or lower "
    f"what needs it, such as the size of batches or the number of workers; {KEPT}"
)
MEMORY_ERRORS = ("allocate memory", "MemoryError", "OutOfMemoryError", "bad_alloc", "failed to map segment", "start new thread")
"""Texts of torch's and C++'s allocators, which have no class of their own, and of errors that a data worker has passed on."""


class UserError(Exception):
    """A mistake that the user can fix. The command line prints its text and exits with `exit_code`."""

    exit_code = 2

    def __init__(self, text: str) -> None:
        # torch's DataLoader raises a worker's error again with the worker's traceback as its text: keep the sentence only.
        text = text.rpartition(f"{type(self).__name__}: ")[2].strip() if text.startswith("Caught ") else text
        super().__init__(redact(text))


def disk_error(error: OSError, kept: str = KEPT) -> UserError:
    """Return the sentence for a disk that refused a file: its name, why, what helps, and what is kept."""
    verb = "read or written" if error.errno == errno.EIO else "written"
    reason, cure = error.strerror or error, CURES.get(error.errno or 0, "check the disk and who may write there")
    return UserError(
        f"{error.filename or 'a file'} could not be {verb} ({reason}); {kept}: {cure}, then run the same command again"
    )


def is_disk_error(error: BaseException) -> bool:
    """Return whether a disk refused a file, rather than that it is not there or may not be used."""
    return isinstance(error, OSError) and error.errno in CURES


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means a want of memory, for which torch, numpy and Python have different ones."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError | OSError | ImportError) and any(word in str(error) for word in MEMORY_ERRORS)


class Interrupted(UserError):
    """A run that a signal ended cleanly; the text says how to resume it."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h, a temporary failure


class Mistake(NamedTuple):
    """One mistake in a configuration: its location, "FILE:LINE" or "command line ...", and a sentence."""

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


class ConfigError(UserError):
    """All mistakes in a configuration, one line each."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(escape_controls(str(mistake)) for mistake in mistakes))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; its class where the message is empty, as that of most EOFErrors is."""
    return redact(str(error)).strip().split("\n")[0] or type(error).__name__
