"""Commands of `jepa` as jobs of Slurm. A job is a command line, run by srun once for each of its processes."""

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

from jepa_pipeline.cluster.records import Record, save_record
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.site import SiteConfig
from jepa_pipeline.version import PACKAGE

RESTARTS_AFTER_TIMEOUT = 3
"""How often a command that cannot go on from a checkpoint begins anew after its time limit; after a preemption it always does."""


class Work(NamedTuple):
    """A command to run as a job.

    name: of the job, in Slurm's lists. command: a command line of `jepa`, without that word. folder: for its record and its logs.
    processes: ranks, one for each that the site gives a pretraining job; one, a single process.
    """

    name: str
    command: list[str]
    folder: Path
    processes: Literal["ranks", "one"]


class After(NamedTuple):
    """What a job waits for: other jobs, by their ids.

    kind: afterok, until they ended well, and with them it is taken away; afterany, until they ended; aftercorr, each element of an
    array until the element of the same number of another array ended well.
    """

    jobs: tuple[str, ...]
    kind: Literal["afterok", "afterany", "aftercorr"] = "afterok"


def submit(
    works: Sequence[Work],
    site: SiteConfig,
    *,
    after: Sequence[str] = (),
    whatever_comes: bool = False,
    each: bool = False,
    at_most: int | None = None,
    logs: Path | None = None,
) -> list[str]:
    """Queue works; several become one array of jobs, of which at_most run at a time.

    Args:
        works: commands, relative paths in which mean what they mean here and now.
        site: what they ask for.
        after: ids of jobs to wait for; should one of them fail, these jobs are taken away.
        whatever_comes: wait only until those have ended, well or not.
        each: after is one array, and each of these waits for its element of the same number.
        at_most: jobs of an array at a time; null: all.
        logs: folder of the logs of an array; else the first one's.

    Returns:
        The ids, such as "123", or "123_0" and so on of an array.

    Raises:
        UserError: there is no Slurm here, or it refuses.
    """
    require_submitit()
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UserError("sbatch and srun are not on PATH: submit on a machine of the cluster, or look at the script with --dry-run")
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    from jepa_pipeline.cluster.command import Command

    waits = After(tuple(after), "aftercorr" if each else "afterany" if whatever_comes else "afterok")
    folder = logs or works[0].folder
    try:
        with outside_of_jobs(), unless_refused(folder / ".submitit"), redirect_stderr(io.StringIO()):  # it prints what it raises
            executor = SlurmExecutor(
                folder=folder / ".submitit", max_num_timeout=RESTARTS_AFTER_TIMEOUT, python=launcher(works, site, folder)
            )
            executor.update_parameters(**parameters(works, site, waits, at_most, folder))
            jobs = executor.submit_array([Command(work.command) for work in works])
    except (FailedJobError, FailedSubmissionError) as error:
        raise UserError(
            f"Slurm refused the job: {refusal(str(error))}; `sinfo` lists the partitions, `jepa doctor` looks at all of it"
        ) from None
    ids = [job.job_id for job in jobs]
    for number, work in zip(ids, works, strict=True):
        save_record(
            Record(
                id=number,
                name=work.name,
                command=tuple(work.command),
                cwd=Path.cwd(),
                folder=work.folder.absolute(),
                submitted=datetime.now().astimezone(),
                log=str(log_file(works, site, folder, number)),
                after=waits.jobs,
            )
        )
    return ids


def script(
    works: Sequence[Work], site: SiteConfig, *, after: After | None = None, at_most: int | None = None, logs: Path | None = None
) -> str:
    """The batch script that `submit` would hand to sbatch."""
    require_submitit()
    from submitit.slurm.slurm import _make_sbatch_string

    folder = logs or works[0].folder
    command = f"{launcher(works, site, folder)} -u -m submitit.core._submit {shlex.quote(str((folder / '.submitit').absolute()))}"
    chosen = parameters(works, site, after or After(()), at_most, folder)
    count = len(works) if len(works) > 1 else None
    return _make_sbatch_string(command, folder / ".submitit", map_count=count, **chosen)


def parameters(works: Sequence[Work], site: SiteConfig, after: After, at_most: int | None, folder: Path) -> dict[str, Any]:
    """Submitit's words for what a job asks for."""
    ranks = works[0].processes == "ranks"
    nodes, tasks = (site.nodes, site.tasks) if ranks else (1, 1)
    gpus = site.gpus_per_node if ranks else min(1, site.gpus_per_node)
    log = str(log_pattern(works, site, folder))
    optional: dict[str, Any] = {
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
        "exclude": site.exclude,
        "gpus_per_node": (f"{site.gpu_type}:{gpus}" if site.gpu_type else gpus) if gpus else None,
        "mem": memory(site.memory_gb if ranks else site.memory_gb / site.tasks) if site.memory_gb else None,
        "dependency": f"{after.kind}:{':'.join(after.jobs)}" if after.jobs else None,
        "array_parallelizm": at_most or (len(works) if len(works) > 1 else None),
    }
    further = {
        "time": site.time,
        "chdir": str(Path.cwd()),
        "output": log.replace("%t", "0"),
        "requeue": True,
        **({"reservation": site.reservation} if site.reservation else {}),
        **({"kill-on-invalid-dep": "yes"} if after.jobs else {}),
        **{name: value for name, value in site.extra.items() if value is not False},
    }
    return {
        "job_name": works[0].name if len(works) == 1 else f"{works[0].command[0]}-{folder.parent.name}",
        "time": site.minutes,
        "nodes": nodes,
        "ntasks_per_node": tasks,
        "cpus_per_task": site.cpus_per_task,
        "signal_delay_s": site.signal_s,
        "wckey": None,
        "stderr_to_stdout": True,
        "use_srun": False,  # launcher calls it, for submitit's own call cannot name the logs
        "setup": [*described(works), *environment(site), *map(or_end, site.setup)],
        "additional_parameters": further,
        **{name: value for name, value in optional.items() if value is not None},
    }


def launcher(works: Sequence[Work], site: SiteConfig, folder: Path) -> str:
    """How Python is started, once for each process: srun is told again what it does not take over from sbatch.

    A process that ends does not end the others: they agree on a checkpoint, or notice that one is missing, by themselves. It is
    Python that does not buffer: srun's --unbuffered would give it a terminal, and the log a progress bar.
    """
    words = ["srun", "--open-mode=append", "--kill-on-bad-exit=0", f"--cpus-per-task={site.cpus_per_task}"]
    words.append(f"--output={log_pattern(works, site, folder)}")
    if site.container:
        words.append(f"--container-image={site.container}")
        words.append(f"--container-workdir={Path.cwd()}")
    if site.container_mounts:
        words.append(f"--container-mounts={','.join(site.container_mounts)}")
    return shlex.join([*words, site.python or sys.executable])


def log_pattern(works: Sequence[Work], site: SiteConfig, folder: Path) -> Path:
    """Where the processes of a job write what they say, with Slurm's signs for its id and the number of the process."""
    rank = "-rank%t" if works[0].processes == "ranks" and site.ranks > 1 else ""
    return folder.absolute() / f"{works[0].command[0]}-{'%A_%a' if len(works) > 1 else '%j'}{rank}.log"


def log_file(works: Sequence[Work], site: SiteConfig, folder: Path, id: str) -> Path:
    """The same of one job; what is left is %t, the number of the process, where there are several."""
    return Path(str(log_pattern(works, site, folder)).replace("%A_%a", id).replace("%j", id))


def described(works: Sequence[Work]) -> list[str]:
    """The commands, as a comment of the script."""
    commands = [f"jepa {shlex.join(work.command)}".replace("\n", " ") for work in works]
    return [f"# runs: {commands[0]}"] if len(works) == 1 else [f"# element {n} runs: {one}" for n, one in enumerate(commands)]


def environment(site: SiteConfig) -> Iterator[str]:
    """Lines that set the variables; a package that runs from a checkout is found from any folder."""
    home = PACKAGE.parent
    if not {"site-packages", "dist-packages"} & set(home.parts):
        yield f"export PYTHONPATH={shlex.quote(str(home))}${{PYTHONPATH:+:$PYTHONPATH}}"
    for name, value in site.environment.items():
        yield f"export {name}={shlex.quote(value)}"


def or_end(line: str) -> str:
    """A line of the setup that ends the job should it fail. As eval takes it, a comment or a line break in it stays in it."""
    return f"eval {shlex.quote(line)} || {{ echo {shlex.quote(f'setup line failed: {line}')} >&2; exit 2; }}"


def memory(gigabytes: float) -> str:
    return f"{gigabytes:g}G" if gigabytes == int(gigabytes) else f"{ceil(1024 * gigabytes)}M"


def require_submitit() -> None:
    """Says so where the package is not there that jobs are submitted with.

    Raises:
        UserError: it is not.
    """
    try:
        import_module("submitit")
    except ImportError:
        raise UserError("submitit is not installed in this Python: pip install -c constraints.txt -e .") from None


@contextmanager
def unless_refused(folder: Path) -> Iterator[None]:
    """Takes a folder away again, and those made for it, if it is new and what it was made for fails."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except Exception:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another job's are in it by now
            for path in new[1:]:
                path.rmdir()
        raise


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Hides what a job knows of itself, which would go into a job submitted from within it."""
    from submitit.helpers import clean_env

    cluster = os.environ.get("SLURM_CONF")
    with clean_env():
        if cluster is not None:
            os.environ["SLURM_CONF"] = cluster
        yield


def refusal(text: str) -> str:
    """What sbatch complained of, in one line."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ").strip() for line in text.splitlines()]
    return "; ".join(line for line in lines if line) or "it did not say why"
