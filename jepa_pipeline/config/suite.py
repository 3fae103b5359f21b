"""Benchmark suites: labeled data sets and the settings of their probes."""

import json
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from jepa_pipeline.config.parse import build, read_yaml
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.recipes import find_file
from jepa_pipeline.config.section import Section, flatten

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class SetConfig(Section):
    """A labeled data set."""

    name: Name = Field(description="Name in the tables.")
    path: str = Field(
        min_length=1,
        description="Folder or URL with train/ and test/ of labeled shards, or of the training shards alone.",
    )
    test: str | None = Field(default=None, min_length=1, description="Test shards, if `path` holds only training shards.")
    settings: ProbeConfig = Field(
        default_factory=lambda: ProbeConfig.model_validate({}),
        description="Settings of its probe, which override those of the suite.",
    )


class SuiteConfig(Section):
    """Data sets and the settings of their probes."""

    name: Name = Field(description="Name of the suite and of its table.")
    data: tuple[SetConfig, ...] = Field(min_length=1, description="The data sets, such as [{name: shapes, path: data/shapes}].")
    settings: ProbeConfig = Field(
        default_factory=lambda: ProbeConfig.model_validate({}),
        description="Settings of all probes, such as protocols: [linear, knn].",
    )

    @model_validator(mode="after")
    def check_names(self) -> Self:
        names = [part.name for part in self.data]
        if duplicates := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two data sets are named {min(duplicates)}: rename one")
        return self

    @model_validator(mode="after")
    def check_settings(self) -> Self:
        for part in self.data:
            try:
                self.probe_settings(part)
            except ValidationError as error:
                first = error.errors()[0]
                where, reason = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
                raise ValueError(f"the settings of {part.name} merged over those of the suite: {where}: {reason}") from None
        return self

    def probe_settings(self, part: SetConfig) -> ProbeConfig:
        """Return the settings for a data set: its own over the suite's over the defaults."""
        return ProbeConfig.model_validate(merge(given_values(part.settings), given_values(self.settings)))


def given_values(config: ProbeConfig) -> dict[str, Any]:
    """Return the values that were set, without defaults."""
    return config.model_dump(mode="json", exclude_unset=True)


def merge(above: dict[str, Any], below: dict[str, Any]) -> dict[str, Any]:
    """Return settings merged over others, section by section."""
    merged = {key: merge(value, below[key]) for key, value in above.items() if isinstance(value, dict) and key in below}
    return below | above | merged


def to_overrides(config: ProbeConfig) -> list[str]:
    """Return the values that were set as dotted assignments of a command line."""
    return [f"{key}={json.dumps(value)}" for key, value in flatten(given_values(config))]


def load_suite(path: Path) -> SuiteConfig:
    """Read a suite: a YAML file, or one of this package by its name, such as demo.

    Raises:
        ConfigError: with every mistake in it.
        UserError: there is no such file.
    """
    return build(SuiteConfig, read_yaml(find_file(path, "suite"), SuiteConfig))
