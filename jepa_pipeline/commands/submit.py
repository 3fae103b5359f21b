"""`jepa submit`: a command as a job, or as a chain or an array of jobs, after everything that can be known to be wrong with it."""

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
from jepa_pipeline.config.site import SiteConfig, load_site
from jepa_pipeline.config.sweep import joined, read_axes, short_keys
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
    if not dry_run:
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
    if config.probing.every_steps is not None and config.probing.submit:
        named = site.environment.get("JEPA_SITE")
        load_site(config.probing.site or (Path(named) if named else None))
    if (config.folder / "checkpoints").is_dir():
        refuse_changed(config)


def refuse_changed(config: RunConfig) -> None:
    """A run goes on as it was begun. Its data and its device are the job's to compare, for they may be others here.

    Raises:
        UserError: the run folder holds a checkpoint of a run that computes something else.
    """
    from jepa_pipeline.training.run_folder import check_folder, newest_about  # which waits for torch

    about = newest_about(config)
    if about is not None:
        check_folder(config, about.data, about.device, tell=lambda _: None)


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
            log = str(log_file(stage.works, site, logs or one.folder, id)).replace("%t", "0")
            print(f"  log: {shown(Path(log))}")
        ids += queued
        after = [queued[0].partition("_")[0]]
    if ids:
        print(advice(stages[0].works, ids))
    return ids


def advice(works: Sequence[Work], ids: Sequence[str]) -> str:
    """How to see what becomes of the jobs."""
    home = works[0].folder.parent
    folder = home if home in (Path("runs"), Path()) else home.parent
    runs = [work.folder.parent for work in works if work.processes == "ranks"]
    where = "" if folder.absolute() == Path("runs").absolute() else f" {shlex.quote(str(folder))}"
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
        UserError: an assignment is none, or two runs are one.
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
    refuse_same([config for _, config in runs])
    return Sweep(runs, "-".join([name, "sweep", *keys.values()]) if len(runs) > 1 else None)


def refuse_same(runs: Sequence[RunConfig]) -> None:
    """Two texts may be one value.

    Raises:
        UserError: two runs differ in nothing but their names.
    """
    first: dict[str, str] = {}
    for run in runs:
        other = first.setdefault(run.model_dump_json(exclude={"name"}), run.name)
        if other != run.name:
            raise UserError(f"--sweep makes one run twice, {other} and {run.name}, for these values are the same: leave one out")
