"""Mistakes of the user, reported as one sentence each with the value, the rule and the cure, and without a traceback."""

from typing import NamedTuple

from jepa_pipeline.config.control_characters import escape_controls
from jepa_pipeline.redaction import redact


class UserError(Exception):
    """A mistake that the user can fix. The command line prints its text and exits with `exit_code`."""

    exit_code = 2

    def __init__(self, text: str) -> None:
        # torch's DataLoader raises a worker's error again with the worker's traceback as its text: keep the sentence only.
        text = text.rpartition(f"{type(self).__name__}: ")[2].strip() if text.startswith("Caught ") else text
        super().__init__(redact(text))


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
