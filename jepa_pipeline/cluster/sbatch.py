"""Submit commands of `jepa` as Slurm jobs. A job is a command line, started by srun once per process."""

import io
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from datetime import datetime
from importlib import import_module
from math import ceil
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jepa_pipeline.cluster.records import JobRecord, save_record
from jepa_pipeline.config.control_characters import RULE, escape_controls, with_controls
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.site import SiteConfig
from jepa_pipeline.redaction import redact
from jepa_pipeline.version import PACKAGE

RESTARTS_AFTER_TIMEOUT = 3
"""Times that submitit restarts a command that does not resume from a checkpoint after its time limit."""
OUTLIVE_S = 600
"""Seconds after the end of the first process of a run after which srun kills the others: more than a watchdog takes."""


class JobSpec(NamedTuple):
    """A command to run as a job.

    Args:
        name: of the job in Slurm's lists.
        command: a command line of `jepa`, without that word.
        folder: for its record and its logs.
        distributed: start one process per rank that the site gives a pretraining job; else a single process.
    """

    name: str
    command: list[str]
    folder: Path
    distributed: bool = False


class Dependency(NamedTuple):
    """The jobs that a job waits for, by id, and sbatch's type of dependency.

    kind: afterok, until all succeeded, and the job is canceled if one fails; afterany, until all ended; aftercorr, until the
    array task of the same number succeeded.
    """

    jobs: tuple[str, ...] = ()
    kind: Literal["afterok", "afterany", "aftercorr"] = "afterok"


NO_DEPENDENCY = Dependency()


def submit(
    specs: Sequence[JobSpec],
    site: SiteConfig,
    dependency: Dependency = NO_DEPENDENCY,
    *,
    max_parallel: int | None = None,
    logs: Path | None = None,
) -> list[str]:
    """Submit jobs; several become one job array.

    Args:
        specs: commands, run in the current folder.
        site: the resources they request.
        dependency: jobs to wait for.
        max_parallel: array tasks that run at a time; null: all.
        logs: folder of an array's logs; null: that of the first job.

    Returns:
        The ids, such as "123", or "123_0", "123_1" and so on for an array.

    Raises:
        UserError: there is no Slurm here, or it refuses.
    """
    require_submitit()
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UserError("sbatch and srun are not on PATH: submit on a machine of the cluster, or print the script with --dry-run")
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    from jepa_pipeline.cluster.command import Command

    folder = logs or specs[0].folder
    try:
        # submitit prints sbatch's errors besides raising them
        with without_job_environment(), removed_on_failure(folder / ".submitit"), redirect_stderr(io.StringIO()):
            (folder / ".submitit").mkdir(0o700, parents=True, exist_ok=True)  # scripts and commands keep their secrets
            executor = SlurmExecutor(
                folder=folder / ".submitit", max_num_timeout=RESTARTS_AFTER_TIMEOUT, python=srun_python(specs, site, folder)
            )
            executor.update_parameters(**sbatch_parameters(specs, site, dependency, max_parallel, folder))
            jobs = executor.submit_array([Command(spec.command) for spec in specs])
    except (FailedJobError, FailedSubmissionError) as error:
        reason = parse_sbatch_error(str(error))
        raise UserError(
            f"Slurm refused the job: {reason}; `jepa doctor` checks the site file, `sinfo` lists the partitions"
        ) from None
    ids = [job.job_id for job in jobs]
    for job, spec in zip(ids, specs, strict=True):
        save_record(
            JobRecord(
                id=job,
                name=spec.name,
                command=tuple(spec.command),
                cwd=Path.cwd(),
                folder=spec.folder.absolute(),
                submitted=datetime.now().astimezone(),
                log=str(log_path(specs, site, folder, job)),
                after=dependency.jobs,
            )
        )
    return ids


def build_script(
    specs: Sequence[JobSpec],
    site: SiteConfig,
    dependency: Dependency = NO_DEPENDENCY,
    *,
    max_parallel: int | None = None,
    logs: Path | None = None,
) -> str:
    """Return the batch script that `submit` would pass to sbatch."""
    require_submitit()
    # private, but submitit has no other way to see a script without submitting it
    from submitit.slurm.slurm import _make_sbatch_string

    folder = logs or specs[0].folder
    submission = shlex.quote(str((folder / ".submitit").absolute()))
    command = f"{srun_python(specs, site, folder)} -u -m submitit.core._submit {submission}"  # as SlurmExecutor writes it
    parameters = sbatch_parameters(specs, site, dependency, max_parallel, folder)
    return _make_sbatch_string(command, folder / ".submitit", map_count=len(specs) if len(specs) > 1 else None, **parameters)


def sbatch_parameters(
    specs: Sequence[JobSpec], site: SiteConfig, dependency: Dependency, max_parallel: int | None, folder: Path
) -> dict[str, Any]:
    """Return the parameters of submitit's SlurmExecutor."""
    distributed = specs[0].distributed
    nodes, tasks = (site.nodes, site.tasks) if distributed else (1, 1)
    gpus = site.gpus_per_node if distributed else min(1, site.gpus_per_node)
    log = str(log_pattern(specs, site, folder))
    optional: dict[str, Any] = {
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
        "exclude": site.exclude,
        "gpus_per_node": (f"{site.gpu_type}:{gpus}" if site.gpu_type else gpus) if gpus else None,
        "mem": format_memory(site.memory_gb if distributed else site.memory_gb / site.tasks) if site.memory_gb else None,
        "dependency": f"{dependency.kind}:{':'.join(dependency.jobs)}" if dependency.jobs else None,
        "array_parallelism": max_parallel or (len(specs) if len(specs) > 1 else None),
    }
    additional = {
        "time": site.time,  # overrides submitit's, which is in whole minutes
        "chdir": str(Path.cwd()),
        "output": log.replace("%t", "0"),
        "requeue": True,
        **({"reservation": site.reservation} if site.reservation else {}),
        **({"kill-on-invalid-dep": "yes"} if dependency.jobs else {}),
        **{name: value for name, value in site.extra.items() if value is not False},
    }
    parameters: dict[str, Any] = {
        "job_name": specs[0].name if len(specs) == 1 else f"{specs[0].command[0]}-{folder.parent.name}",
        "time": site.minutes,
        "nodes": nodes,
        "ntasks_per_node": tasks,
        "cpus_per_task": site.cpus_per_task,
        "signal_delay_s": site.signal_s,
        "wckey": None,  # submitit's default "submitit" is refused where wckeys are enforced
        "stderr_to_stdout": True,
        "use_srun": False,  # srun_python calls it, because submitit's own call does not let us name the logs
        "setup": [*command_comments(specs), *export_lines(site), *map(exit_on_failure, site.setup)],
        "additional_parameters": additional,
        **{name: value for name, value in optional.items() if value is not None},
    }
    for _, text in with_controls([value for name, value in parameters.items() if name != "setup"]):
        raise UserError(f"{text!r} cannot be in a batch script: {RULE}")
    return parameters


def srun_python(specs: Sequence[JobSpec], site: SiteConfig, folder: Path) -> str:
    """Return the command that starts Python once per process, which submitit takes for a path of Python."""
    words = [
        "srun",
        "--open-mode=append",
        # the other ranks agree on a checkpoint, or notice the missing one, by themselves
        "--kill-on-bad-exit=0",
        # but a stopped one ends by nothing else
        f"--wait={OUTLIVE_S}",
        # srun does not inherit it from sbatch since Slurm 22.05
        f"--cpus-per-task={site.cpus_per_task}",
        # not --unbuffered, which attaches a terminal and fills the log with progress bars; Python gets -u instead
        f"--output={log_pattern(specs, site, folder)}",
    ]
    if site.container:
        words.append(f"--container-image={site.container}")
        words.append(f"--container-workdir={Path.cwd()}")
    if site.container_mounts:
        words.append(f"--container-mounts={','.join(site.container_mounts)}")
    return shlex.join([*words, site.python or sys.executable])


def log_pattern(specs: Sequence[JobSpec], site: SiteConfig, folder: Path) -> Path:
    """Return the path of the logs with Slurm's placeholders: %j or %A_%a for the job, %t for the rank if there are several."""
    rank = "-rank%t" if specs[0].distributed and site.ranks > 1 else ""
    return folder.absolute() / f"{specs[0].command[0]}-{'%A_%a' if len(specs) > 1 else '%j'}{rank}.log"


def log_path(specs: Sequence[JobSpec], site: SiteConfig, folder: Path, job: str) -> Path:
    """Return the path of one job's logs, in which only %t is left, if there are several ranks."""
    return Path(str(log_pattern(specs, site, folder)).replace("%A_%a", job).replace("%j", job))


def command_comments(specs: Sequence[JobSpec]) -> list[str]:
    """Return the comments of the script that name its commands."""
    commands = [escape_controls(f"jepa {shlex.join(map(redact, spec.command))}") for spec in specs]
    if len(specs) == 1:
        return [f"# command: {commands[0]}"]
    return [f"# command of array task {number}: {command}" for number, command in enumerate(commands)]


def export_lines(site: SiteConfig) -> Iterator[str]:
    """Yield the lines of the script that set environment variables."""
    home = PACKAGE.parent
    if not {"site-packages", "dist-packages"} & set(home.parts):  # a checkout must be importable from any folder
        yield f"export PYTHONPATH={shlex.quote(str(home))}${{PYTHONPATH:+:$PYTHONPATH}}"
    for name, value in site.environment.items():
        yield f"export {name}={shlex.quote(value)}"


def exit_on_failure(line: str) -> str:
    """Return a setup line that ends the job if it fails."""
    # eval keeps a comment or a line break in the line from swallowing what follows
    return f"eval {shlex.quote(line)} || {{ echo {shlex.quote(redact(f'setup line failed: {line}'))} >&2; exit 2; }}"


def format_memory(gigabytes: float) -> str:
    return f"{gigabytes:g}G" if gigabytes == int(gigabytes) else f"{ceil(1024 * gigabytes)}M"


def require_submitit() -> None:
    """Raise UserError if submitit is not installed."""
    try:
        import_module("submitit")
    except ImportError:
        raise UserError("submitit is not installed in this Python: pip install 'submitit>=1.5.3'") from None


@contextmanager
def removed_on_failure(folder: Path) -> Iterator[None]:
    """Remove a folder and its parents after an error, if they did not exist before."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except Exception:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # by now another job may have files there
            for path in new[1:]:
                path.rmdir()
        raise


@contextmanager
def without_job_environment() -> Iterator[None]:
    """Hide the variables of the current job, which a job submitted from within it would inherit."""
    from submitit.helpers import clean_env

    # clean_env removes all of SLURM_*; this one is the user's and says which cluster to talk to
    slurm_conf = os.environ.get("SLURM_CONF")
    with clean_env():
        if slurm_conf is not None:
            os.environ["SLURM_CONF"] = slurm_conf
        yield


def parse_sbatch_error(text: str) -> str:
    """Return sbatch's error messages in one line."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ").strip() for line in text.splitlines()]
    return "; ".join(line for line in lines if line) or "it gave no reason"
