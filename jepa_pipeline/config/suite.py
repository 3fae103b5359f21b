"""A benchmark: the data sets on which encoders are judged, and how."""

import json
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from jepa_pipeline.config.load import build, read_yaml
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.run import flatten
from jepa_pipeline.config.section import Section

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class SetConfig(Section):
    """A labeled data set."""

    name: Name = Field(description="What the tables call it.")
    path: str = Field(
        min_length=1,
        description="Folder or URL with labeled shards in train/ and test/, or that of the training shards.",
    )
    test: str | None = Field(default=None, min_length=1, description="Test shards, where `path` holds only the training shards.")
    settings: ProbeConfig = Field(
        default_factory=lambda: ProbeConfig.model_validate({}), description="Of its probe, laid over those of the suite."
    )


class SuiteConfig(Section):
    """Data sets and the settings of their probes."""

    name: Name = Field(description="Name of the suite and of its table.")
    data: tuple[SetConfig, ...] = Field(min_length=1, description="The data sets, such as [{name: shapes, path: data/shapes}].")
    settings: ProbeConfig = Field(
        default_factory=lambda: ProbeConfig.model_validate({}), description="Of every probe, such as protocols: [linear, knn]."
    )

    @model_validator(mode="after")
    def names_differ(self) -> Self:
        names = [part.name for part in self.data]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two data sets are called {min(twice)}: give each a name of its own")
        return self

    @model_validator(mode="after")
    def settings_go_together(self) -> Self:
        for part in self.data:
            try:
                self.probe_of(part)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"]))
                raise ValueError(
                    f"the settings of {part.name} over those of the suite: {where}: {first['msg'].removeprefix('Value error, ')}"
                ) from None
        return self

    def probe_of(self, part: SetConfig) -> ProbeConfig:
        """The settings for a data set: its own over the suite's over the defaults."""
        return ProbeConfig.model_validate(over(said(part.settings), said(self.settings)))


def said(config: ProbeConfig) -> dict[str, Any]:
    """What was given, without defaults."""
    return config.model_dump(mode="json", exclude_unset=True)


def over(above: dict[str, Any], below: dict[str, Any]) -> dict[str, Any]:
    """Settings laid over others, section by section."""
    merged = {key: over(value, below[key]) for key, value in above.items() if isinstance(value, dict) and key in below}
    return below | above | merged


def assignments(config: ProbeConfig) -> list[str]:
    """The settings as they are given on a command line, without defaults."""
    return [f"{key}={json.dumps(value)}" for key, value in flatten(said(config))]


def load_suite(path: Path) -> SuiteConfig:
    """Read a suite.

    Raises:
        ConfigError: with every mistake in it.
    """
    return build(SuiteConfig, read_yaml(path))
