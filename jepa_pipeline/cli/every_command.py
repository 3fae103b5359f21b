"""Options of every command, which may stand anywhere, and the end of its help."""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, get_args

import typer

from jepa_pipeline.config.errors import UserError

LogLevel = Literal["debug", "info", "warning", "error"]
QUIET = ("-q", "--quiet")
LOG_LEVEL = "--log-level"
SUBMITTED = ("--then", "--after", "--sweep", "--at-most", "--site", "--set", "--dry-run")
"""Options of `jepa submit`, which any command that can be a job takes together with --submit."""
OWN_OPTIONS = ("submit", "benchmark", "doctor")
"""Commands that have such options themselves."""
NOT_FOR_JOBS = ("submit", "jobs", "logs", "cancel")
EPILOG = "Every command: -h, -q or --quiet for results, warnings and errors alone, --log-level LEVEL; see `jepa -h`."
JOB_EPILOG = (
    "As a Slurm job: --submit, with --site FILE, --set KEY=VALUE, --then 'COMMAND' to run afterwards, --after ID, and --dry-run to "
    "print the batch script alone{}; see `jepa submit -h`."
)
SWEEP_EPILOG = ", --sweep KEY=A,B and --at-most N"
BENCHMARK_EPILOG = "As Slurm jobs: --submit, with --site, --set and --dry-run."

Quiet = Annotated[bool, typer.Option(*QUIET, help="Print results, warnings and errors alone: no progress, no notes.")]
Level = Annotated[
    str,
    typer.Option(LOG_LEVEL, metavar="LEVEL", envvar="JEPA_LOG_LEVEL", help=f"What is printed: {', '.join(get_args(LogLevel))}."),
]


class CommandLine(NamedTuple):
    """A command line without the options of every command, and these."""

    words: list[str]
    shared: list[str]


def split_shared(words: Sequence[str]) -> CommandLine:
    """Return a command line whose options of every command, which may stand anywhere before a lone --, are apart."""
    own, shared, left = list[str](), list[str](), list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            own += [word, *left]
            break
        if word == LOG_LEVEL and left:
            shared += [word, left.pop(0)]
        elif word in QUIET or word.startswith(f"{LOG_LEVEL}="):
            shared.append(word)
        else:
            own.append(word)
    return CommandLine(own, shared)


def check_level(level: str, quiet: bool) -> LogLevel:
    """Return the log level that the options of every command ask for.

    Raises:
        UserError: there is no such level.
    """
    for known in get_args(LogLevel):
        if level.lower() == known:
            return "warning" if quiet and known in ("debug", "info") else known
    raise UserError(f"{LOG_LEVEL} {level} is unknown: give {', '.join(get_args(LogLevel))}")


def refuse_without_submit(words: Sequence[str]) -> None:
    """Raise UserError if an option of `jepa submit` is given to another command without --submit."""
    own = words[: words.index("--")] if "--" in words else words
    if not own or "--submit" in own or own[0] in OWN_OPTIONS:
        return
    if given := [word for word in own if word.partition("=")[0] in SUBMITTED]:
        raise UserError(f"{given[0]} is for Slurm jobs: add --submit, or remove it")


def add_epilogs(app: typer.Typer, group: str | None = None) -> None:
    """Give the help of every command its last lines; group: the name of the group that the command belongs to."""
    for command in app.registered_commands:
        name = group or command.name or getattr(command.callback, "__name__", "")
        command.epilog = "\n\n".join(filter(None, (job_epilog(name), EPILOG)))
    for below in app.registered_groups:
        if below.typer_instance is not None:
            add_epilogs(below.typer_instance, group or below.name)


def job_epilog(name: str) -> str:
    """Return the line on jobs in the help of a command, empty if it is none."""
    if name in NOT_FOR_JOBS:
        return ""
    return BENCHMARK_EPILOG if name == "benchmark" else JOB_EPILOG.format(SWEEP_EPILOG if name == "pretrain" else "")
