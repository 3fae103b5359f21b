"""`jepa submit`: a command as a job, or as a chain or an array of jobs, after everything that can be known to be wrong with it."""

import re
import shlex
import shutil
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

from jepa_pipeline.cluster.queue import After, Work, log_file, script
from jepa_pipeline.cluster.queue import submit as queue
from jepa_pipeline.cluster.records import read_records
from jepa_pipeline.cluster.states import states_of
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.site import SiteConfig
from jepa_pipeline.probes.runs import run_of

Assignment = tuple[str, str]
"""A dotted key and a value, as text."""


class Verb(NamedTuple):
    """A command line: the words of the verb, such as ("shards", "check"), and what follows them."""

    name: tuple[str, ...]
    rest: tuple[str, ...]

    def of(self, run: Path) -> list[str]:
        """The command with a run folder as its first argument."""
        return [*self.name, str(run), *self.rest]


class Sweep(NamedTuple):
    """Runs that are submitted together: the command of each and its configuration. name: of them all, where there are several."""

    runs: list[tuple[Verb, RunConfig]]
    name: str | None = None


class Stage(NamedTuple):
    """Jobs that are queued at once, of one kind: one, or an array, and how they wait for the stage before."""

    works: list[Work]
    waits: Literal["afterok", "afterany", "aftercorr"] = "afterok"
    logs: Path | None = None
    at_most: int | None = None


def submit(
    verb: Verb, run: Path | None, site: SiteConfig, *, then: Sequence[Verb] = (), after: Sequence[str] = (), dry_run: bool = False
) -> list[str]:
    """Queue any verb as a job of one process, and others after it that are given the same run.

    Args:
        verb: what to run.
        run: the run folder it works on, if there is one.
        site: what a job asks for.
        then: what to run after it, each once the one before has ended well.
        after: ids of jobs to wait for.
        dry_run: print the batch scripts and queue nothing.

    Returns:
        The ids of the jobs.

    Raises:
        UserError: Slurm is not here or refuses.
    """
    if then and run is None:
        raise UserError(f"--then follows a verb that works on a run, and {' '.join(verb.name)} does not: submit it by itself")
    if run is not None and not after and not run.exists():
        raise UserError(f"no folder {run}: give a run, or with --after the job that makes it")
    first = Stage([work(verb.name, [*verb.name, *verb.rest], run)])
    followers = [Stage([work(one.name, one.of(run), run)]) for one in then if run is not None]
    return carry_out([first, *followers], site, after, dry_run)


def submit_pretraining(
    sweep: Sweep,
    site: SiteConfig,
    *,
    then: Sequence[Verb] = (),
    after: Sequence[str] = (),
    at_most: int | None = None,
    dry_run: bool = False,
) -> list[str]:
    """Queue one pretraining run, or several as an array with a table of them all at its end.

    Args:
        sweep: the runs.
        site: what a job asks for.
        then: what to run after each run that ended well, with the run as its first argument.
        after: ids of jobs to wait for.
        at_most: runs of an array at a time.
        dry_run: print the batch scripts and queue nothing.

    Returns:
        The ids of the jobs.

    Raises:
        UserError: a run could not be trained so, is queued already, or Slurm is not here or refuses.
    """
    for _, config in sweep.runs:
        check(config, site)
    runs = [config.folder for _, config in sweep.runs]
    refuse_twice(runs)
    place = runs[0].parent / sweep.name if sweep.name else None
    logs, waits = (place / "jobs", "aftercorr") if place else (None, "afterok")
    trained = [
        Work(f"pretrain-{config.name}", [*one.name, *one.rest], config.folder / "jobs", "ranks") for one, config in sweep.runs
    ]
    stages = [Stage(trained, "afterok", logs, at_most)]
    stages += [Stage([work(one.name, one.of(run), run) for run in runs], waits, logs, at_most) for one in then]
    if place:
        table = ["table", *map(str, runs), "--out", str(place)]
        stages.append(Stage([Work(f"table-{place.name}", table, place / "jobs", "one")], "afterany"))
    return carry_out(stages, site, after, dry_run)


def work(name: Sequence[str], command: list[str], run: Path | None) -> Work:
    """A job of one process; its record lies in the run's jobs, a snapshot's too, and without a run in runs/jobs."""
    home = run_of(run) if run else Path("runs")
    title = "-".join([*name, *([run.name] if run and home != run else []), *([home.name] if run else [])])
    return Work(title, command, home / "jobs", "one")


def check(config: RunConfig, site: SiteConfig) -> None:
    """Refuse what would fail in the job.

    Raises:
        UserError: it would, with the cure.
    """
    try:
        config.check_processes(site.ranks)
    except ValueError as error:
        raise UserError(
            f"{error}: the site's nodes x tasks_per_node is {site.ranks}; change one of them, as by --set nodes=1"
        ) from None
    for key, wanted, started in (("nodes", config.trainer.nodes, site.nodes), ("devices", config.trainer.devices, site.tasks)):
        if wanted not in (None, started):
            raise UserError(
                f"trainer.{key} is {wanted}, but the site's {'tasks_per_node' if key == 'devices' else key} is {started}: set "
                f"trainer.{key}=null, or the site's by --set"
            )
    from jepa_pipeline.checks.submission import check_submission

    check_submission(config, site.ranks)


def refuse_twice(runs: Sequence[Path]) -> None:
    """A run has one job that trains it.

    Raises:
        UserError: one of these is queued or running.
    """
    if shutil.which("squeue") is None:
        return  # a dry run elsewhere; queueing fails by itself
    jobs = [job for run in runs for job in read_records(run) if job.command[0] == "pretrain" and job.run.samefile(run)]
    states = states_of([job.id for job in jobs])
    for job in jobs:
        if states[job.id].live:
            raise UserError(
                f"job {job.id} of {job.run} is {states[job.id]}: wait for it, take it away with 'jepa cancel {job.id}', or give "
                "this run another name"
            )


def carry_out(stages: Sequence[Stage], site: SiteConfig, after: Sequence[str], dry_run: bool) -> list[str]:
    """Queue the stages one after another, and say what was done."""
    ids: list[str] = []
    for number, stage in enumerate(stages):
        waits = stage.waits if number else "afterok"
        if dry_run:
            after = [f"JOB{number}"] if number else after
            print(script(stage.works, site, after=After(tuple(after), waits), at_most=stage.at_most, logs=stage.logs))
            continue
        whatever, each = waits == "afterany", waits == "aftercorr"
        logs, most = stage.logs, stage.at_most
        queued = queue(stage.works, site, after=after, whatever_comes=whatever, each=each, at_most=most, logs=logs)
        for id, one in zip(queued, stage.works, strict=True):
            print(f"job {id}: jepa {shlex.join(one.command)}" + (f"   after {', '.join(after)}" if after else ""))
            print(f"  log: {shown(log_file(stage.works, site, logs or one.folder, id))}")
        ids += queued
        after = [queued[0].partition("_")[0]]
    if ids:
        print(advice(stages[0].works, ids))
    return ids


def advice(works: Sequence[Work], ids: Sequence[str]) -> str:
    """How to see what becomes of the jobs."""
    folder = works[0].folder.parent if len(works[0].folder.parts) < 2 else works[0].folder.parent.parent
    runs = [work.folder.parent for work in works if work.processes == "ranks"]
    where = "" if folder in (Path("runs"), Path()) else f" {shlex.quote(str(folder))}"
    option = f" --folder{where}" if where else ""
    lines = (
        [f"run folder: {run}" for run in runs[:1]] if len(runs) == 1 else [f"run folders: {', '.join(map(str, runs))}"] * bool(runs)
    )
    every = f"jepa cancel {' '.join(dict.fromkeys(id.partition('_')[0] for id in ids))}{option}"
    return "\n".join(
        [*lines, f"see them: jepa jobs{where}", f"read:     jepa logs {ids[0]}{option} --follow", f"cancel:   {every}"]
    )


def shown(path: Path) -> Path:
    """A path from here, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def swept(verb: Verb, recipe: Path, overrides: Sequence[str], sweep: Sequence[str]) -> Sweep:
    """The runs of a sweep: every combination of the values, each under a name of its own; one run without a sweep.

    Args:
        verb: pretrain, as it was said.
        recipe: its recipe.
        overrides: its assignments.
        sweep: assignments with several values, such as "optim.lr=1e-4,3e-4".

    Raises:
        ConfigError: a combination is not a run, with all its mistakes.
        UserError: an assignment is none.
    """
    axes = read_axes(sweep)
    if not axes:
        return Sweep([(verb, load_config(recipe, overrides))])
    name = load_config(recipe, overrides).name
    choices = [[(key, value) for value in values] for key, values in axes.items()]
    keys = short_keys([key for key, values in axes.items() if len(values) > 1])
    runs, names = [], Counter[str]()
    for combination in product(*choices):
        parts = [f"{keys[key]}{joined(value)}" for key, value in combination if key in keys]
        title = "-".join([name, *parts])
        names[title] += 1
        title += f"-{names[title]}" if names[title] > 1 else ""
        more = [*(f"{key}={value}" for key, value in combination), f"name={title}"]
        runs.append((Verb(verb.name, (*verb.rest, *more)), load_config(recipe, [*overrides, *more])))
    return Sweep(runs, "-".join([name, "sweep", *keys.values()]) if len(runs) > 1 else None)


def read_axes(sweep: Sequence[str]) -> dict[str, list[str]]:
    """The values of each key. Commas inside brackets and quotes belong to a value."""
    axes: dict[str, list[str]] = {}
    for assignment in sweep:
        key, equals, text = assignment.partition("=")
        values = [value.strip() for value in re.findall(r"(?:\[[^\]]*\]|\{[^}]*\}|\"[^\"]*\"|'[^']*'|[^,])+", text)]
        if not equals or not key or not values:
            raise UserError(f"--sweep {assignment} is not KEY=VALUE,VALUE with a dotted key, such as optim.lr=1e-4,3e-4")
        if key in axes:
            raise UserError(
                f"--sweep gives {key} twice: say all its values at once, such as {key}={','.join([*axes[key], *values])}"
            )
        if key in ("name", "output"):
            raise UserError(f"--sweep cannot be over {key}: every run of a sweep is given its own name, in one folder")
        if len(set(values)) < len(values):
            raise UserError(f"--sweep {assignment} has a value twice: leave one out")
        axes[key] = values
    return axes


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Of each key as many of its last words as tell it from the others."""
    short = {}
    for key in keys:
        words = key.split(".")
        others = [other.split(".") for other in keys if other != key]
        count = next((n for n in range(1, len(words)) if all(other[-n:] != words[-n:] for other in others)), len(words))
        short[key] = ".".join(words[-count:])
    return short


def joined(value: str) -> str:
    """A value as the end of a name: of letters, digits, '.', '_' and '-', and set off where it is a word."""
    clean = re.sub(r"[^A-Za-z0-9.-]+", "_", value).strip("_") or "none"
    return clean if clean[0].isdigit() else f"_{clean}"
