"""What the images are and who reads them."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from jepa_pipeline.config.section import Section
from jepa_pipeline.config.views import Share

SMALLEST_SHARE = 1 / 4000
"""Of a data set in a mixture; data sets are mixed in blocks of 4,096 samples, in each of which every one must appear."""


class SourceConfig(Section):
    """One data set of a mixture."""

    path: str = Field(min_length=1, description="Folder or URL (http, https, s3, gs, hf) of shards with a manifest.json.")
    weight: float = Field(default=1.0, gt=0, description="Its share of the samples, as a part of the sum of all weights.")


def as_sources(value: object) -> object:
    """One folder or URL stands for a mixture of one; entries that are no mapping are folders of weight 1."""
    entries = value if isinstance(value, list | tuple) else [value]
    if not entries:
        raise ValueError("it is an empty list, but data is a folder or URL of shards, or a list of {path: ..., weight: ...}")
    for entry in entries:
        if not isinstance(entry, str | Path | dict | SourceConfig):
            raise ValueError(f"it is {value!r}, but data is a folder or URL of shards, or a list of {{path: ..., weight: ...}}")
    return [{"path": str(entry)} if isinstance(entry, str | Path) else entry for entry in entries]


class DamageConfig(Section):
    """What to do with a sample that cannot be read or decoded while training. It never moves the other samples."""

    policy: Literal["skip", "stop"] = Field(
        default="skip", description="skip: the next whole sample of the stream stands in for it; stop: end the run."
    )
    limit: Share = Field(
        default=0.01, description="Share of skipped samples above which the run stops, judged from 1,000 samples on."
    )


class CacheConfig(Section):
    """Where shards from a URL are kept on this machine; all processes of a node share it. Local shards are read in place."""

    folder: Path | None = Field(default=None, description="Null: jepa_pipeline/shards in the user's cache folder.")
    limit_gb: float = Field(
        default=200.0,
        gt=0,
        description="Above it the shards opened longest ago go; those still open take room until they are closed.",
    )


class DataConfig(Section):
    """The shards that are read and by how many workers. Workers cannot change what is read, only how fast."""

    train: Annotated[tuple[SourceConfig, ...], BeforeValidator(as_sources)] = Field(
        description="Folder or URL of shards with a manifest.json, as `jepa shards build` writes it; "
        "or a mixture, such as [{path: data/a, weight: 3}, {path: data/b, weight: 1}].",
    )
    workers: int = Field(default=2, ge=0, description="Decoding processes per device; 0 decodes in the training process.")
    prefetch_batches: int = Field(default=4, ge=1, description="Batches each worker prepares ahead.")
    window_shards: int = Field(
        default=16, ge=1, description="Shards whose samples are shuffled together; more mixes better and reads less sequentially."
    )
    damage: DamageConfig = Field(default_factory=DamageConfig, description="Samples that cannot be used.")
    cache: CacheConfig = Field(default_factory=CacheConfig, description="Shards from a URL.")

    @model_validator(mode="after")
    def sources_can_be_mixed(self) -> Self:
        paths = [source.path for source in self.train]
        if twice := {path for path in paths if paths.count(path) > 1}:
            raise ValueError(f"{min(twice)} is named twice in the mixture: name it once, with the sum of the weights")
        total = sum(source.weight for source in self.train)
        for source in self.train:
            if source.weight / total < SMALLEST_SHARE:
                raise ValueError(f"weight {source.weight:g} of {source.path} is under 1/4000 of the sum: raise it or leave it out")
        return self
