"""Site files: how jobs use one Slurm cluster. Each user writes their own."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.parse import build, read_overrides, read_yaml
from jepa_pipeline.config.recipes import find_file, shipped_file
from jepa_pipeline.config.section import Section

TIME = re.compile(
    r"(?:(?P<days>\d+)-(?P<day_hours>\d+)(?::(?P<day_rest>[0-5]?\d(?::[0-5]?\d)?))?|(?P<parts>\d+(?::[0-5]?\d){0,2}))"
)
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OPTION = re.compile(r"[a-z][a-z0-9-]*")

SITE_OPTIONS = {
    **{name: name for name in ("partition", "account", "qos", "nodes", "time", "constraint", "exclude", "reservation")},
    **{"gpus-per-node": "gpus_per_node", "gres": "gpus_per_node", "ntasks-per-node": "tasks_per_node", "ntasks": "tasks_per_node"},
    **{"cpus-per-task": "cpus_per_task", "mem": "memory_gb", "signal": "signal_s"},
}
"""Options of sbatch that have a key in a site file, and that key."""

RESERVED_OPTIONS = (
    "array",
    "chdir",
    "dependency",
    "error",
    "job-name",
    "kill-on-invalid-dep",
    "open-mode",
    "output",
    "requeue",
    "no-requeue",
)
"""Options of sbatch that `jepa submit` sets itself."""


def to_text(value: Any) -> Any:
    """Return a number, such as a time of 90 minutes, as text."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(to_text, json_schema_input_type=str | int | float)]


class SiteConfig(Section):
    """The resources that jobs request on one Slurm cluster, or on one partition of it."""

    MULTILINE = frozenset({"setup"})

    partition: str | None = Field(default=None, description="Partition; null: the cluster's default.")
    account: str | None = Field(default=None, description="Account to charge; null: the user's default.")
    qos: str | None = Field(default=None, description="Quality of service; null: the default.")
    nodes: int = Field(default=1, ge=1, description="Nodes of a pretraining job; other jobs use one.")
    gpus_per_node: int = Field(default=0, ge=0, description="GPUs per node of a pretraining job; other jobs use one at most.")
    gpu_type: str | None = Field(default=None, description="Slurm's name for the GPU type, such as a100; null: any.")
    tasks_per_node: int | None = Field(
        default=None, ge=1, description="Processes per node of a pretraining job; null: one per GPU, or one without GPUs."
    )
    cpus_per_task: int = Field(default=1, ge=1, description="CPUs per process, for it and its data workers.")
    memory_gb: float | None = Field(
        default=None,
        gt=0,
        description="Main memory per node of a pretraining job, in GiB; a single process gets its share. Null: Slurm's default.",
    )
    time: Text = Field(
        description="Time limit of a job in Slurm's format: 90 (minutes), 24:00:00 or 2-12:00:00 (days-hours:minutes:seconds)."
    )
    constraint: str | None = Field(default=None, description="Required node features, such as a100&nvlink.")
    exclude: str | None = Field(default=None, description="Nodes to avoid, such as node[3,7-9].")
    reservation: str | None = Field(default=None, description="Reservation to run in.")
    signal_s: int = Field(
        default=180,
        ge=1,
        le=65535,
        description="Seconds before the time limit or a preemption at which Slurm signals a job to save a checkpoint and stop; "
        "at most half of the time limit.",
    )
    setup: tuple[str, ...] = Field(
        default=(),
        description="Shell commands to run first, such as 'module load cuda'; if one fails, the job ends with exit code 2.",
    )
    container: str | None = Field(
        default=None, description="Image to run the command in, with Pyxis and enroot (srun's --container-image)."
    )
    container_mounts: tuple[str, ...] = Field(
        default=(),
        description="Folders to mount, each as HOST:CONTAINER; include those of the code, the data and the runs.",
    )
    python: str | None = Field(
        default=None, description="Python interpreter of the job, with this package installed; null: the one that submits."
    )
    environment: dict[str, Text] = Field(default_factory=dict, description="Environment variables of the job.")
    extra: dict[str, bool | str | int] = Field(
        default_factory=dict, description="More options of sbatch by their long names, such as {exclusive: true, licenses: foo}."
    )

    @field_validator("time")
    @classmethod
    def check_time(cls, time: str) -> str:
        if minutes_of(time) < 1:
            raise ValueError(
                f"{time!r} is not a time limit, such as 90 (minutes), 24:00:00 or 2-12:00:00 (days-hours:minutes:seconds, the last "
                "two below 60)"
            )
        return time

    @field_validator("environment")
    @classmethod
    def check_environment(cls, environment: dict[str, str]) -> dict[str, str]:
        if wrong := [name for name in environment if not NAME.fullmatch(name)]:
            raise ValueError(f"{wrong[0]!r} is not a variable name: use letters, digits and '_'")
        return environment

    @field_validator("extra")
    @classmethod
    def check_extra(cls, extra: dict[str, Any]) -> dict[str, Any]:
        for name in extra:
            if not OPTION.fullmatch(name):
                raise ValueError(f"{name!r} is not a long option of sbatch without its dashes, such as exclusive or mail-type")
            if name in SITE_OPTIONS:
                raise ValueError(f"{name} duplicates the key {SITE_OPTIONS[name]}: set that instead")
            if name in RESERVED_OPTIONS:
                raise ValueError(f"{name} is set by jepa submit: remove it")
        return extra

    @model_validator(mode="after")
    def check_container(self) -> Self:
        if self.container_mounts and self.container is None:
            raise ValueError("container_mounts is set without container: set container, or remove it")
        return self

    @model_validator(mode="after")
    def check_signal(self) -> Self:
        seconds = seconds_of(self.time)
        if 2 * self.signal_s > seconds:
            raise ValueError(
                f"signal_s {self.signal_s} is more than half of time {self.time} ({seconds} s), which leaves a job too "
                f"little time to work: set signal_s to {seconds // 2} at most, or a longer time"
            )
        return self

    @property
    def minutes(self) -> int:
        """Return the time limit in whole minutes."""
        return minutes_of(self.time)

    @property
    def tasks(self) -> int:
        """Return the processes per node of a pretraining job."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def ranks(self) -> int:
        """Return the processes of a pretraining job."""
        return self.nodes * self.tasks


def minutes_of(time: str) -> int:
    """Return a time limit in Slurm's format in whole minutes, rounded up; 0 if it is not one."""
    return -(-seconds_of(time) // 60)


def seconds_of(time: str) -> int:
    """Return a time limit in Slurm's format in seconds; 0 if it is not one."""
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
    """Return the path of the user's own site file."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "jepa_pipeline" / "site.yaml"


def load_site(given: Path | None = None, overrides: Sequence[str] = ()) -> SiteConfig:
    """Read a site.

    Args:
        given: a YAML file, or a site of this package by its name, such as a100; default: $JEPA_SITE, else
            ~/.config/jepa_pipeline/site.yaml.
        overrides: assignments such as "time=2:00:00", which override it.

    Raises:
        ConfigError: with every mistake in it.
        UserError: there is no site file.
    """
    variable = os.environ.get("JEPA_SITE")
    if given is None and variable:
        try:
            file = find_file(variable, "site")
        except UserError:
            raise UserError(
                f"no file {variable}, which $JEPA_SITE names, and no site of this package has that name: change that variable, or "
                "give a site file with --site FILE"
            ) from None
    elif given is None and not site_file().is_file():
        raise UserError(
            f"there is no site file for this cluster: write one with `jepa config copy sites/generic {site_file()}` and fill it "
            "in, or give one with --site FILE or $JEPA_SITE"
        )
    else:
        file = site_file() if given is None else find_file(given, "site")
    layer = read_yaml(file, SiteConfig)
    layer.update(read_overrides(overrides, SiteConfig), SiteConfig)
    return build(SiteConfig, layer)


def site_reference(given: Path) -> str:
    """Return what names a site in another folder too: the absolute path of a file, or a name of this package."""
    file = find_file(given, "site")
    return str(given) if file == shipped_file(given, "site") else str(file.absolute())
