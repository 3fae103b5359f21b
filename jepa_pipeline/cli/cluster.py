"""`jepa submit`, `jobs`, `logs` and `cancel`: any command as a Slurm job."""

import re
import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jepa_pipeline.cli.arguments import DryRun, Json, Site, SiteOverrides, split_data
from jepa_pipeline.cli.every_command import NOT_FOR_JOBS
from jepa_pipeline.cli.export import FORMATS
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.recipes import shipped_file

if TYPE_CHECKING:
    from jepa_pipeline.commands.submit import CommandLine

JOB_ID = re.compile(r"[0-9]+(_[0-9]+)?")
RUN_ARGUMENTS = ("run", "runs", "recipe")
"""Names of the first argument of the commands that work on a run folder."""

RunsFolder = Annotated[Path, typer.Option(help="Folder of the run folders, or a run folder.")]


def submit(
    context: typer.Context,
    words: Annotated[
        list[str], typer.Argument(metavar="COMMAND", help="A command without the word jepa, such as pretrain CONFIG.")
    ],
    site: Site = None,
    settings: SiteOverrides = None,
    then: Annotated[
        list[str] | None,
        typer.Option(help="A command to run afterwards on the same run, such as 'probe --data SHARDS'; repeatable."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="Values of keys for pretrain, such as optim.lr=1e-4,3e-4 seed=0,1; all combinations run as an array of jobs."
        ),
    ] = None,
    at_most: Annotated[int | None, typer.Option(min=1, help="Runs of a sweep at the same time; default: all.")] = None,
    after: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="A job that must have succeeded before this one starts; repeatable.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Run any command as a Slurm job: `jepa submit pretrain CONFIG`, or `jepa pretrain CONFIG --submit`, with the same options.

    The site file describes the cluster. pretrain uses all of its nodes and GPUs, other commands one process. Mistakes are
    reported before anything is submitted. A sweep ends with a table of its runs.
    """
    from jepa_pipeline.cluster.sbatch import require_submitit

    require_submitit()
    root = context.find_root().command
    command, parameters = parse_command(root, words)
    if wrong := [id for id in after or [] if not JOB_ID.fullmatch(id)]:
        raise UserError(f"--after {wrong[0]} is not a job id, such as 123 or 123_0: `jepa jobs` lists the jobs of this folder")
    followers = [parse_follower(root, text) for text in then or []]
    if command.name != ("pretrain",) and (sweep or at_most):
        raise UserError(f"--sweep and --at-most are for pretrain, not for {' '.join(command.name)}: remove them")

    from jepa_pipeline.config.site import load_site, site_reference

    cluster = load_site(site, settings or [])
    if site:  # jobs that the job itself submits, such as probes during training, need the same site file
        environment = {"JEPA_SITE": site_reference(site), **cluster.environment}
        cluster = cluster.model_copy(update={"environment": environment})

    if command.name == ("pretrain",):
        from jepa_pipeline.commands.submit import expand_sweep, submit_pretraining

        runs = expand_sweep(command, parameters["recipe"], parameters["overrides"] or [], sweep or [])
        submit_pretraining(runs, cluster, then=followers, after=after or [], at_most=at_most, dry_run=dry_run)
    else:
        from jepa_pipeline.commands.submit import submit

        check_parameters(command, parameters, data_may_come=bool(after))
        submit(command, find_run(parameters), cluster, then=followers, after=after or [], dry_run=dry_run)


def jobs(
    folder: Annotated[Path, typer.Argument(help="Folder of the run folders, or a run folder.")] = Path("runs"),
    as_json: Json = False,
    everything: Annotated[bool, typer.Option("--all", help="Include jobs that were submitted again later.")] = False,
) -> None:
    """List submitted jobs: their state, progress, speed and collapse.

    A run is called collapsed if the newest effective rank of its targets is below 2, their standard deviation below 1e-4, or their
    mean cosine above 0.99; else that rank is shown, which does not prove that the run learns.
    """
    from jepa_pipeline.commands.jobs import jobs

    jobs(folder, as_json=as_json, everything=everything)


def logs(
    job: Annotated[str, typer.Argument(help="A job id, such as 123 or 123_0, or the name of a run.")],
    folder: RunsFolder = Path("runs"),
    lines: Annotated[int, typer.Option(min=1, help="Number of last lines.")] = 40,
    rank: Annotated[int, typer.Option(min=0, help="Process of a job with several processes.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines until the job ends.")] = False,
) -> None:
    """Print the log of a job."""
    from jepa_pipeline.commands.jobs import logs

    logs(job, folder, lines=lines, rank=rank, follow=follow)


def cancel(
    names: Annotated[list[str], typer.Argument(metavar="JOB...", help="Job ids, such as 123 or 123_0, or names of runs.")],
    folder: RunsFolder = Path("runs"),
) -> None:
    """Cancel jobs, and those that wait for them to succeed."""
    from jepa_pipeline.commands.jobs import cancel

    cancel(names, folder)


def rewrite_submit(words: Sequence[str]) -> list[str] | None:
    """Return a command line with --submit as one of `jepa submit`, with one --sweep per value; None if nothing changes."""
    own = list(words[: words.index("--")]) if "--" in words else list(words)
    if ("--submit" not in own and own[:1] != ["submit"]) or own[:1] == ["benchmark"]:  # benchmark submits its own jobs
        return None
    # --submit is removed last, because it ends the values of a --sweep before it.
    command = [word for word in split_sweeps(own) if word != "--submit"]
    return [*([] if command[:1] == ["submit"] else ["submit"]), *command, *words[len(own) :]]


def split_sweeps(words: Sequence[str]) -> list[str]:
    """Return `--sweep a=1,2 b=3,4` as `--sweep a=1,2 --sweep b=3,4`, because options take one value in click."""
    result, sweeping = list[str](), False
    for word in words:
        sweeping = word.startswith("--sweep") or (sweeping and "=" in word and not word.startswith("-"))
        result += ["--sweep", word] if sweeping and not word.startswith("--sweep") and result[-1] != "--sweep" else [word]
    return result


def parse_command(root: Any, words: Sequence[str]) -> tuple["CommandLine", dict[str, Any]]:
    """Parse a command line as the job will.

    Args:
        root: the click command of `jepa`.
        words: the command line without the word jepa.

    Returns:
        The command with its arguments, and its parameters by name.

    Raises:
        UserError: there is no such command, or it cannot be a job. click's own errors for wrong options.
    """
    command, click_command = find_command(root, words)
    context = click_command.make_context(" ".join(["jepa", *command.name]), list(command.arguments))
    return command, context.params


def find_command(root: Any, words: Sequence[str]) -> tuple["CommandLine", Any]:
    """Return the command that a command line begins with, with its arguments, and its click command."""
    from jepa_pipeline.commands.submit import CommandLine

    click_command, name, arguments = root, list[str](), list(words)
    while hasattr(click_command, "commands"):
        known = [word for word in click_command.commands if name or word not in NOT_FOR_JOBS]
        word = arguments.pop(0) if arguments else ""
        if word not in known:
            near = get_close_matches(word, known, 1)
            hint = f"did you mean '{' '.join([*name, near[0]])}'?" if near else f"it is one of {', '.join(known)}"
            raise UserError(f"'{' '.join([*name, word]).strip()}' is not a command that can be submitted: {hint}")
        name.append(word)
        click_command = click_command.commands[word]
    return CommandLine(tuple(name), tuple(arguments)), click_command


def parse_follower(root: Any, text: str) -> "CommandLine":
    """Parse the value of --then, a command without its first argument, the run."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"--then '{text}' is not a command line: {str(error).lower()}") from None
    command, click_command = find_command(root, words)
    arguments = [parameter.name for parameter in click_command.params if parameter.param_type_name == "argument"]
    if not arguments or arguments[0] not in RUN_ARGUMENTS:
        raise UserError(f"--then '{text}': {' '.join(command.name)} does not work on a run: submit it by itself")
    context = click_command.make_context(" ".join(["jepa", *command.name]), ["RUN", *command.arguments], allow_extra_args=True)
    parameters = context.params
    # beside the run, a word without an option may be a format or an assignment; data is named with --data
    given = [parameters[name] or [] for name in arguments[1:]]
    words = [str(word) for value in given for word in (value if isinstance(value, list | tuple) else [value])]
    if extra := [*context.args, *(word for word in words if "=" not in word and word not in FORMATS)]:
        raise UserError(f"--then '{text}': remove {extra[0]}, because the run is passed as the first argument")
    check_parameters(command, parameters, data_may_come=False)
    return command


def check_parameters(command: "CommandLine", parameters: dict[str, Any], data_may_come: bool) -> None:
    """Raise UserError for what would fail in the job; `data_may_come`: an earlier job may still create the data."""
    if command.name == ("shards", "build") and not data_may_come and not parameters["folder"].is_dir():
        raise UserError(
            f"no folder {parameters['folder']}: give the one with the images or videos, or the job that creates it with --after"
        )
    if command.name == ("probe",):
        from jepa_pipeline.checks.given_paths import check_probe

        data, settings = split_data(parameters["settings"] or [], parameters["data"])
        check_probe(settings, data, parameters["test"], data_may_come)


def find_run(parameters: dict[str, Any]) -> Path | None:
    """Return the run folder among a command's parameters, if any; a recipe is none."""
    name = next((name for name in RUN_ARGUMENTS if parameters.get(name)), None)
    if name is None:
        return None
    value = parameters[name]
    first = Path(value[0] if isinstance(value, list | tuple) else value)
    named = name == "recipe" and not first.exists() and shipped_file(first, "recipe")
    return None if named or first.suffix in (".yaml", ".yml") else first
