"""A Slurm cluster as its user may use it. The file is the user's own and never part of the project."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import build, read_overrides, read_yaml
from jepa_pipeline.config.section import Section

TIME = re.compile(
    r"(?:(?P<days>\d+)-(?P<day_hours>\d+)(?::(?P<day_rest>[0-5]?\d(?::[0-5]?\d)?))?|(?P<parts>\d+(?::[0-5]?\d){0,2}))"
)
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OPTION = re.compile(r"[a-z][a-z0-9-]*")

TAKEN = {
    **{name: name for name in ("partition", "account", "qos", "nodes", "time", "constraint", "exclude", "reservation")},
    **{"gpus-per-node": "gpus_per_node", "gres": "gpus_per_node", "ntasks-per-node": "tasks_per_node", "ntasks": "tasks_per_node"},
    **{"cpus-per-task": "cpus_per_task", "mem": "memory_gb", "signal": "signal_s"},
}
"""sbatch's options that are keys of a site, and which."""

OURS = ("array", "chdir", "dependency", "error", "job-name", "kill-on-invalid-dep", "open-mode", "output", "requeue", "no-requeue")
"""sbatch's options that follow from what is submitted."""


def as_text(value: Any) -> Any:
    """A number where a text is meant, such as 90 minutes or one thread."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(as_text)]


class SiteConfig(Section):
    """One Slurm cluster, or one partition of it: what a job of this project asks for there."""

    partition: str | None = Field(default=None, description="Slurm's partition; null: the cluster's default.")
    account: str | None = Field(default=None, description="Who is charged; null: the user's default account.")
    qos: str | None = Field(default=None, description="Slurm's quality of service; null: the default.")
    nodes: int = Field(default=1, ge=1, description="Nodes of a pretraining job; every other job has one.")
    gpus_per_node: int = Field(
        default=0, ge=0, description="GPUs of a node that a pretraining job takes; other jobs take one at most."
    )
    gpu_type: str | None = Field(default=None, description="Slurm's name of the GPUs, such as a100; null: any.")
    tasks_per_node: int | None = Field(
        default=None, ge=1, description="Processes a node of a pretraining job; null: one a GPU, or one where there is none."
    )
    cpus_per_task: int = Field(default=1, ge=1, description="CPUs of a process, for itself and its decoding workers.")
    memory_gb: float | None = Field(
        default=None,
        gt=0,
        description="GiB of main memory a node of a pretraining job; a job of one process gets its share. Null: Slurm's default.",
    )
    time: Text = Field(
        description="Time limit of a job as Slurm writes it: 90 (minutes), 24:00:00 or 2-12:00:00 (days-hours:minutes:seconds)."
    )
    constraint: str | None = Field(default=None, description="Features the nodes must have, such as a100&nvlink.")
    exclude: str | None = Field(default=None, description="Nodes not to use, such as node[3,7-9].")
    reservation: str | None = Field(default=None, description="A reservation to run in.")
    signal_s: int = Field(
        default=180,
        ge=1,
        le=65535,
        description="Seconds before the time limit, or before a preemption, at which Slurm asks a job to stop; a checkpoint must "
        "be written within them. Half of the time limit at most.",
    )
    setup: tuple[str, ...] = Field(
        default=(),
        description="Lines of shell before the command, such as 'module load cuda'; one that fails ends the job (exit code 2).",
    )
    container: str | None = Field(
        default=None, description="Image that Pyxis and enroot run the command in (srun's --container-image)."
    )
    container_mounts: tuple[str, ...] = Field(
        default=(),
        description="Folders seen inside the container, each as HOST:INSIDE; the code, the data and the runs are needed.",
    )
    python: str | None = Field(
        default=None, description="Interpreter of the job, with this package in it; null: the one that submits."
    )
    environment: dict[str, Text] = Field(default_factory=dict, description="Environment variables of the job.")
    extra: dict[str, bool | str | int] = Field(
        default_factory=dict, description="Further options of sbatch by their long names, such as {exclusive: true, licenses: foo}."
    )

    @field_validator("time")
    @classmethod
    def time_is_slurms(cls, time: str) -> str:
        if minutes_of(time) < 1:
            raise ValueError(
                f"{time!r} is no time limit, such as 90 (minutes), 24:00:00 or 2-12:00:00 (days-hours:minutes:seconds, the last "
                "two below 60)"
            )
        return time

    @field_validator("environment")
    @classmethod
    def variables_have_names(cls, environment: dict[str, str]) -> dict[str, str]:
        if wrong := [name for name in environment if not NAME.fullmatch(name)]:
            raise ValueError(f"{wrong[0]!r} is no name of a variable: letters, digits and '_'")
        return environment

    @field_validator("extra")
    @classmethod
    def extra_options_are_free(cls, extra: dict[str, Any]) -> dict[str, Any]:
        for name in extra:
            if not OPTION.fullmatch(name):
                raise ValueError(f"{name!r} is no long option of sbatch without its dashes, such as exclusive or mail-type")
            if name in TAKEN:
                raise ValueError(f"{name} is said by the key {TAKEN[name]}: set that")
            if name in OURS:
                raise ValueError(f"{name} follows from what is submitted: leave it out")
        return extra

    @model_validator(mode="after")
    def mounts_have_a_container(self) -> Self:
        if self.container_mounts and self.container is None:
            raise ValueError("container_mounts are given without a container: set container, or leave them out")
        return self

    @model_validator(mode="after")
    def signal_leaves_time_to_work(self) -> Self:
        seconds = seconds_of(self.time)
        if 2 * self.signal_s > seconds:
            raise ValueError(
                f"signal_s {self.signal_s} is more than half of time {self.time} ({seconds} s), and a job would be asked to stop "
                f"before it has done its work: set signal_s to {seconds // 2} at most, or a longer time"
            )
        return self

    @property
    def minutes(self) -> int:
        """The time limit in whole minutes."""
        return minutes_of(self.time)

    @property
    def tasks(self) -> int:
        """Processes a node of a pretraining job."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def ranks(self) -> int:
        """Processes of a pretraining job."""
        return self.nodes * self.tasks


def minutes_of(time: str) -> int:
    """Slurm's time limit in whole minutes, rounded up; 0 of what is none."""
    return -(-seconds_of(time) // 60)


def seconds_of(time: str) -> int:
    """Slurm's time limit in seconds; 0 of what is none."""
    found = TIME.fullmatch(time)
    if found is None:
        return 0
    if found["days"]:
        parts = [int(found["day_hours"]), *map(int, (found["day_rest"] or "0").split(":")), 0]
    else:
        parts = [*map(int, found["parts"].split(":"))]
        parts = parts if len(parts) == 3 else [0, *parts, 0]
    return 86400 * int(found["days"] or 0) + 3600 * parts[0] + 60 * parts[1] + parts[2]


def site_file() -> Path:
    """The user's own site file, where no other is named."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "jepa_pipeline" / "site.yaml"


def load_site(path: Path | None = None, overrides: Sequence[str] = ()) -> SiteConfig:
    """Read a site.

    Args:
        path: a YAML file; else the one that $JEPA_SITE names, else the user's own in ~/.config/jepa_pipeline.
        overrides: assignments such as "time=2:00:00", laid above it.

    Raises:
        ConfigError: with every mistake in it.
        UserError: there is none.
    """
    variable = os.environ.get("JEPA_SITE")
    found = (path or (Path(variable) if variable else site_file())).expanduser()
    if path is None and variable and not found.is_file():
        raise UserError(
            f"no file {found} (named by $JEPA_SITE): give that variable another path, or name a site file by --site FILE"
        )
    if path is None and not found.is_file():
        raise UserError(
            f"no site file says how this cluster is used: copy slurm/generic.yaml of this project to {found} and fill it in, or "
            "name one by --site FILE or $JEPA_SITE"
        )
    source = read_yaml(found)
    source.update(read_overrides(overrides))
    return build(SiteConfig, source)
