"""`jepa submit`, `jobs`, `logs` and `cancel`: any verb as a job of Slurm, and what becomes of it."""

import re
import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jepa_pipeline.config.errors import UserError

if TYPE_CHECKING:
    from jepa_pipeline.commands.submit import Verb

JOB = re.compile(r"[0-9]+(_[0-9]+)?")
NOT_FOR_JOBS = ("submit", "jobs", "logs", "cancel")
OF_A_RUN = ("run", "runs", "recipe")
"""What the first argument of a verb is called that works on a run folder."""

Folder = Annotated[Path, typer.Option(help="The run folders are in here, or this is one.")]


def submit(
    words: Annotated[list[str], typer.Argument(metavar="VERB", help="A command of jepa, without that word.")],
    site: Annotated[
        Path | None, typer.Option(help="The site file; else $JEPA_SITE, else ~/.config/jepa_pipeline/site.yaml.", metavar="FILE")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Laid over the site file, such as time=2:00:00.", metavar="KEY=VALUE")
    ] = None,
    then: Annotated[
        list[str] | None,
        typer.Option(help="A verb to run after it on the same run, such as 'probe --data SHARDS'; may be given several times."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="Values of a key of pretrain, such as optim.lr=1e-4,3e-4 seed=0,1: all combinations, as an array of jobs."
        ),
    ] = None,
    at_most: Annotated[int | None, typer.Option(min=1, help="Runs of a sweep at a time; all unless said.")] = None,
    after: Annotated[
        list[str] | None, typer.Option(help="A job that must have ended well before; may be given several times.", metavar="ID")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the batch scripts, and queue nothing.")] = False,
) -> None:
    """Run any verb as a job of Slurm: `jepa submit pretrain CONFIG`, or `jepa pretrain CONFIG --submit` with the same options.

    A site file says how the cluster is used. pretrain takes all its nodes and GPUs, every other verb one process. What can be known
    to be wrong is said before anything is queued. A sweep ends in a table of its runs.
    """
    from jepa_pipeline.cluster.queue import require_submitit

    require_submitit()
    verb, chosen = read_command(words)
    if wrong := [id for id in after or [] if not JOB.fullmatch(id)]:
        raise UserError(f"--after {wrong[0]} is no id of a job, such as 123 or 123_0: `jepa jobs` lists those of this folder")
    followers = [read_follower(text) for text in then or []]
    if verb.name != ("pretrain",) and (sweep or at_most):
        raise UserError(f"--sweep and --at-most are for pretrain, not for {' '.join(verb.name)}: leave them out")

    from jepa_pipeline.config.site import load_site

    place = load_site(site, settings or [])
    if site:  # for what the job submits itself, such as probes
        whole = str(site.expanduser().absolute())
        place = place.model_copy(update={"environment": {"JEPA_SITE": whole, **place.environment}})

    if verb.name == ("pretrain",):
        from jepa_pipeline.commands.submit import submit_pretraining, swept

        runs = swept(verb, chosen["recipe"], chosen["overrides"] or [], sweep or [])
        submit_pretraining(runs, place, then=followers, after=after or [], at_most=at_most, dry_run=dry_run)
    else:
        from jepa_pipeline.commands.submit import submit

        look_at(verb, chosen, made_later=bool(after))
        submit(verb, run_of(chosen), place, then=followers, after=after or [], dry_run=dry_run)


def jobs(
    folder: Annotated[Path, typer.Argument(help="The run folders are in here, or this is one.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also jobs that were submitted again later.")] = False,
) -> None:
    """Say how the submitted jobs do: their state, how far their runs are, how fast, and whether they collapse.

    The word on health is of the newest measurement in metrics.jsonl: collapsed, where the targets' effective rank is below 2, their
    deviation below 1e-4 or their mean cosine above 0.99, else that rank. It cannot say that a run learns.
    """
    from jepa_pipeline.commands.jobs import jobs

    jobs(folder, as_json=as_json, everything=everything)


def logs(
    job: Annotated[str, typer.Argument(help="A job's id, such as 123 or 123_0, or the name of a run.")],
    folder: Folder = Path("runs"),
    lines: Annotated[int, typer.Option(min=1, help="How many of the last lines.")] = 40,
    rank: Annotated[int, typer.Option(min=0, help="Whose, of a job of several processes.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
) -> None:
    """Print what a job wrote."""
    from jepa_pipeline.commands.jobs import logs

    logs(job, folder, lines=lines, rank=rank, follow=follow)


def cancel(
    named: Annotated[list[str], typer.Argument(metavar="JOB...", help="Ids, such as 123 or 123_0, or names of runs.")],
    folder: Folder = Path("runs"),
) -> None:
    """Take jobs away, and with them those that wait for them to end well."""
    from jepa_pipeline.commands.jobs import cancel

    cancel(named, folder)


def submitted(words: Sequence[str]) -> list[str] | None:
    """A command line with --submit in it as one of the verb `submit`, and every value of --sweep after a --sweep of its own.

    Returns:
        The other command line; None where there is nothing to change.
    """
    own = list(words[: words.index("--")]) if "--" in words else list(words)
    if ("--submit" not in own and own[:1] != ["submit"]) or own[:1] == ["benchmark"]:  # which becomes several jobs by itself
        return None
    verb = [word for word in spread_sweeps(own) if word != "--submit"]  # which ends the values of a --sweep before it
    return [*([] if verb[:1] == ["submit"] else ["submit"]), *verb, *words[len(own) :]]


def spread_sweeps(words: Sequence[str]) -> list[str]:
    """`--sweep a=1,2 b=3,4` as `--sweep a=1,2 --sweep b=3,4`."""
    spread, sweeping = list[str](), False
    for word in words:
        sweeping = word.startswith("--sweep") or (sweeping and "=" in word and not word.startswith("-"))
        spread += ["--sweep", word] if sweeping and not word.startswith("--sweep") and spread[-1] != "--sweep" else [word]
    return spread


def read_command(words: Sequence[str]) -> tuple["Verb", dict[str, Any]]:
    """A command line, taken apart as it will be in the job.

    Returns:
        The verb with what follows it, and its parameters by their names.

    Raises:
        UserError: there is no such verb, or it is no work for a job. The command line's own error where its options are wrong.
    """
    verb, command = find_verb(words)
    return verb, command.make_context(" ".join(["jepa", *verb.name]), list(verb.rest)).params


def find_verb(words: Sequence[str]) -> tuple["Verb", Any]:
    """The verb that a command line begins with, and typer's description of it."""
    from jepa_pipeline.cli import app
    from jepa_pipeline.commands.submit import Verb

    command: Any = typer.main.get_command(app)
    name, rest = list[str](), list(words)
    while hasattr(command, "commands"):
        known = [word for word in command.commands if name or word not in NOT_FOR_JOBS]
        word = rest.pop(0) if rest else ""
        if word not in known:
            near = get_close_matches(word, known, 1)
            hint = f"did you mean '{' '.join([*name, near[0]])}'?" if near else f"it is one of {', '.join(known)}"
            raise UserError(f"'{' '.join([*name, word]).strip()}' is no verb that can be submitted: {hint}")
        name.append(word)
        command = command.commands[word]
    return Verb(tuple(name), tuple(rest)), command


def read_follower(text: str) -> "Verb":
    """What comes after --then: a verb whose first argument, the run, is left out."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"--then '{text}' is no command line: {str(error).lower()}") from None
    verb, command = find_verb(words)
    arguments = [parameter.name for parameter in command.params if parameter.param_type_name == "argument"]
    if not arguments or arguments[0] not in OF_A_RUN:
        raise UserError(
            f"--then '{text}': {' '.join(verb.name)} does not work on a run, as probe and export do; submit it by itself"
        )
    context = command.make_context(" ".join(["jepa", *verb.name]), ["RUN", *verb.rest], allow_extra_args=True)
    chosen = context.params
    stray = [*context.args, *(word for word in chosen.get("settings") or chosen.get("overrides") or [] if "=" not in word)]
    if stray:
        raise UserError(f"--then '{text}': {stray[0]} is too much, for the run is given to it as its first argument: leave it out")
    look_at(verb, chosen, made_later=False)
    return verb


def look_at(verb: "Verb", chosen: dict[str, Any], made_later: bool) -> None:
    """Refuse what would fail in the job of a verb that is not pretrain. made_later: data may be made by a job before it.

    Raises:
        UserError: it would, with the cure.
    """
    if verb.name == ("shards", "build") and not made_later and not chosen["folder"].is_dir():
        raise UserError(
            f"no folder {chosen['folder']}: give the one with the images or videos, or with --after the job that makes it"
        )
    if verb.name == ("probe",):
        from jepa_pipeline.checks.submission import check_probe

        check_probe(chosen["settings"] or [], chosen["data"], chosen["test"], made_later)


def run_of(chosen: dict[str, Any]) -> Path | None:
    """The run folder that a verb's parameters name, or that a recipe is."""
    found = next((chosen[name] for name in OF_A_RUN if chosen.get(name)), None)
    first = found[0] if isinstance(found, list | tuple) else found
    return None if first is None or Path(first).suffix in (".yaml", ".yml") else Path(first)
