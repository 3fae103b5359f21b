"""Mistakes of the user: each one sentence with the value, the rule and the cure; exit code 2; no traceback."""

from typing import NamedTuple


class UserError(Exception):
    """A mistake the user can mend. The command line prints its text and exits with this code."""

    exit_code = 2

    def __init__(self, text: str) -> None:
        """A worker's error reaches its parent as a printed traceback; of that only the sentence is kept."""
        super().__init__(text.rpartition(f"{type(self).__name__}: ")[2].strip() if text.startswith("Caught ") else text)


class Interrupted(UserError):
    """A signal ended a run in order; the text says how to go on. The code is that of a temporary failure (EX_TEMPFAIL)."""

    exit_code = 75


class Mistake(NamedTuple):
    """One thing wrong with a configuration.

    where: "FILE:LINE" or "command line"; what: the sentence.
    """

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class ConfigError(UserError):
    """Everything that is wrong with a configuration, all at once, one line each."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(map(str, mistakes)))
