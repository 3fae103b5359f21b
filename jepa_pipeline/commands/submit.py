"""`jepa submit`: submit a command as a Slurm job, a chain of jobs or an array, once all that can be checked before is checked."""

import shlex
import shutil
from collections import Counter
from collections.abc import Sequence
from itertools import product
from math import inf
from pathlib import Path
from typing import Literal, NamedTuple

from jepa_pipeline.cluster.records import array_id, read_records
from jepa_pipeline.cluster.sbatch import Dependency, JobSpec, build_script, log_path
from jepa_pipeline.cluster.sbatch import submit as submit_jobs
from jepa_pipeline.cluster.states import query_states
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.site import SiteConfig, load_site
from jepa_pipeline.config.sweep import name_suffix, parse_sweep, shorten_keys
from jepa_pipeline.redaction import redact
from jepa_pipeline.results.run_folders import run_of


class CommandLine(NamedTuple):
    """A command line of jepa: the name of the command, such as ("shards", "check"), and its arguments."""

    name: tuple[str, ...]
    arguments: tuple[str, ...]

    def on(self, run: Path) -> list[str]:
        """Return the words of the command line, with a run folder as the first argument."""
        return [*self.name, str(run), *self.arguments]


class Sweep(NamedTuple):
    """Runs that are submitted together: the command line and configuration of each; name: of the sweep, if there are several."""

    runs: list[tuple[CommandLine, RunConfig]]
    name: str | None = None


class Stage(NamedTuple):
    """Jobs that are submitted together, as one job or an array.

    Args:
        specs: the jobs.
        kind: type of dependency on the stage before.
        logs: folder of an array's logs.
        max_parallel: array tasks that run at a time.
    """

    specs: list[JobSpec]
    kind: Literal["afterok", "afterany", "aftercorr"] = "afterok"
    logs: Path | None = None
    max_parallel: int | None = None


def submit(
    command: CommandLine,
    run: Path | None,
    site: SiteConfig,
    *,
    then: Sequence[CommandLine] = (),
    after: Sequence[str] = (),
    dry_run: bool = False,
) -> list[str]:
    """Submit a command as a job of one process, followed by other commands on the same run.

    Args:
        command: the command line.
        run: the run folder it works on, if any.
        site: the resources of a job.
        then: commands to run after it, each after the one before has succeeded.
        after: ids of jobs to wait for.
        dry_run: print the batch scripts and submit nothing.

    Returns:
        The ids of the jobs.

    Raises:
        UserError: there is no Slurm here, or it refuses.
    """
    if then and run is None:
        name = " ".join(command.name)
        raise UserError(f"--then needs a command that works on a run, but {name} does not: submit both separately")
    if run is not None and not after and not run.exists():
        raise UserError(f"no folder {run}: give a run, or with --after the job that creates it")
    first = Stage([build_spec(command.name, [*command.name, *command.arguments], run)])
    followers = [Stage([build_spec(follower.name, follower.on(run), run)]) for follower in then if run is not None]
    return submit_stages([first, *followers], site, after, dry_run)


def submit_pretraining(
    sweep: Sweep,
    site: SiteConfig,
    *,
    then: Sequence[CommandLine] = (),
    after: Sequence[str] = (),
    at_most: int | None = None,
    dry_run: bool = False,
) -> list[str]:
    """Submit one pretraining run, or several as an array followed by a table of all of them.

    Args:
        sweep: the runs.
        site: the resources of a job.
        then: commands to run after each run that succeeded, with the run as their first argument.
        after: ids of jobs to wait for.
        at_most: runs of an array at a time.
        dry_run: print the batch scripts and submit nothing.

    Returns:
        The ids of the jobs.

    Raises:
        UserError: a run would fail or is already queued, or there is no Slurm here, or it refuses.
    """
    for _, config in sweep.runs:
        check_run(config, site, made_later=bool(after))
    runs = [config.folder for _, config in sweep.runs]
    if not dry_run:
        refuse_queued_runs(runs)
    folder = runs[0].parent / sweep.name if sweep.name else None
    logs, kind = (folder / "jobs", "aftercorr") if folder else (None, "afterok")
    pretraining = [
        JobSpec(f"pretrain-{config.name}", [*command.name, *command.arguments], config.folder / "jobs", distributed=True)
        for command, config in sweep.runs
    ]
    stages = [Stage(pretraining, "afterok", logs, at_most)]
    stages += [Stage([build_spec(follower.name, follower.on(run), run) for run in runs], kind, logs, at_most) for follower in then]
    if folder:
        table = ["table", *map(str, runs), "--out", str(folder)]
        # afterany, because a table of the other runs is wanted when one has failed
        stages.append(Stage([JobSpec(f"table-{folder.name}", table, folder / "jobs")], "afterany"))
    return submit_stages(stages, site, after, dry_run)


def build_spec(name: Sequence[str], words: list[str], run: Path | None) -> JobSpec:
    """Return a job of one process. Its record lies in the jobs/ of the run, even for a checkpoint of it, else in runs/jobs."""
    home = run_of(run) if run else Path("runs")
    title = "-".join([*name, *([run.name] if run and home != run else []), *([home.name] if run else [])])
    return JobSpec(title, words, home / "jobs")


def check_run(config: RunConfig, site: SiteConfig, made_later: bool = False) -> None:
    """Raise UserError if the run would fail in its job; `made_later`: an earlier job may make what it reads."""
    try:
        config.check_processes(site.ranks)
    except ValueError as error:
        raise UserError(
            f"{error}: the site's nodes x tasks_per_node is {site.ranks}; change one of them, for example with --set nodes=1"
        ) from None
    pairs = (
        ("nodes", config.trainer.nodes, "nodes", site.nodes),
        ("devices", config.trainer.devices, "tasks_per_node", site.tasks),
    )
    for key, wanted, site_key, given in pairs:
        if wanted not in (None, given):
            raise UserError(
                f"trainer.{key} is {wanted}, but the site's {site_key} is {given}: set trainer.{key}=null, or use --set {site_key}="
                f"{wanted}"
            )
    from jepa_pipeline.checks.recipe import Node, check_memory
    from jepa_pipeline.checks.result import require
    from jepa_pipeline.checks.slurm import check_cpus
    from jepa_pipeline.checks.submission import check_submission

    check_submission(config, site.ranks, made_later)
    memory = inf if site.memory_gb is None else site.memory_gb * 2**30
    node = Node("a node of the site (memory_gb)", site.ranks, site.tasks, memory, has_gpu=site.gpus_per_node > 0)
    require([check_cpus(config.data.workers, site), *check_memory(config, node)])
    if config.probing.every_steps is not None and config.probing.submit:
        named = site.environment.get("JEPA_SITE")
        load_site(config.probing.site or (Path(named) if named else None))


def refuse_queued_runs(runs: Sequence[Path]) -> None:
    """Raise UserError if a run is already queued or running: one job at a time trains it."""
    if shutil.which("squeue") is None:
        return  # a dry run outside the cluster; submitting fails with its own message
    jobs = [job for run in runs for job in read_records(run) if job.command[0] == "pretrain" and job.run.samefile(run)]
    states = query_states([job.id for job in jobs])
    for job in jobs:
        if states[job.id].live:
            raise UserError(
                f"job {job.id} of {job.run} is {states[job.id]}: wait for it, cancel it with 'jepa cancel {job.id}', or give this "
                "run another name"
            )


def submit_stages(stages: Sequence[Stage], site: SiteConfig, after: Sequence[str], dry_run: bool) -> list[str]:
    """Submit stages, each after the one before, and print the jobs; with dry_run only print their scripts."""
    ids: list[str] = []
    for number, stage in enumerate(stages):
        kind = stage.kind if number else "afterok"
        if dry_run:
            after = [f"JOB{number}"] if number else after
            dependency = Dependency(tuple(after), kind)
            print(redact(build_script(stage.specs, site, dependency, max_parallel=stage.max_parallel, logs=stage.logs)))
            continue
        dependency = Dependency(tuple(after), kind)
        submitted = submit_jobs(stage.specs, site, dependency, max_parallel=stage.max_parallel, logs=stage.logs)
        for job, spec in zip(submitted, stage.specs, strict=True):
            print(f"job {job}: jepa {shlex.join(map(redact, spec.command))}" + (f"   after {', '.join(after)}" if after else ""))
            log = Path(str(log_path(stage.specs, site, stage.logs or spec.folder, job)).replace("%t", "0"))
            print(f"  log: {log.relative_to(Path.cwd()) if log.is_relative_to(Path.cwd()) else log}")
        ids += submitted
        after = [array_id(submitted[0])]
    if ids:
        print(format_hints(stages[0].specs, ids))
    return ids


def format_hints(specs: Sequence[JobSpec], ids: Sequence[str]) -> str:
    """Return the commands that show and cancel the jobs."""
    home = specs[0].folder.parent
    folder = home if home in (Path("runs"), Path()) else home.parent
    runs = [str(spec.folder.parent) for spec in specs if spec.distributed]
    where = "" if folder.absolute() == Path("runs").absolute() else f" {shlex.quote(str(folder))}"
    option = f" --folder{where}" if where else ""
    hints = [f"run folder{'s' if len(runs) > 1 else ''}: {', '.join(runs)}"] if runs else []
    hints += [
        f"states:   jepa jobs{where}",
        f"log:      jepa logs {ids[0]}{option} --follow",
        f"cancel:   jepa cancel {' '.join(dict.fromkeys(map(array_id, ids)))}{option}",
    ]
    return "\n".join(hints)


def expand_sweep(command: CommandLine, recipe: Path, overrides: Sequence[str], sweep: Sequence[str]) -> Sweep:
    """Return the runs of a sweep, one per combination of values, each with its own name; without a sweep a single run.

    Args:
        command: the command line of pretrain as given.
        recipe: its recipe.
        overrides: its assignments.
        sweep: assignments with several values, such as "optim.lr=1e-4,3e-4".

    Raises:
        ConfigError: a combination is not a valid run, with all mistakes.
        UserError: an assignment is malformed, or two runs are equal.
    """
    axes = parse_sweep(sweep)
    if not axes:
        return Sweep([(command, load_config(recipe, overrides))])
    name = load_config(recipe, overrides).name
    choices = [[(key, value) for value in values] for key, values in axes.items()]
    keys = shorten_keys([key for key, values in axes.items() if len(values) > 1])
    runs, uses = [], Counter[str]()
    for combination in product(*choices):
        parts = [f"{keys[key]}{name_suffix(value)}" for key, value in combination if key in keys]
        title = "-".join([name, *parts])
        uses[title] += 1
        title += f"-{uses[title]}" if uses[title] > 1 else ""
        assignments = [*(f"{key}={value}" for key, value in combination), f"name={title}"]
        config = load_config(recipe, [*overrides, *assignments])
        runs.append((CommandLine(command.name, (*command.arguments, *assignments)), config))
    refuse_equal_runs([config for _, config in runs])
    return Sweep(runs, "-".join([name, "sweep", *keys.values()]) if len(runs) > 1 else None)


def refuse_equal_runs(configs: Sequence[RunConfig]) -> None:
    """Raise UserError if two runs differ only in name, because two texts are the same value."""
    first: dict[str, str] = {}
    for config in configs:
        name = first.setdefault(config.model_dump_json(exclude={"name"}), config.name)
        if name != config.name:
            raise UserError(f"--sweep makes {name} and {config.name}, which are the same run with equal values: remove one value")
