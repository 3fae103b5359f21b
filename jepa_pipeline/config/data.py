"""Training data: shards, their mixture and how they are read."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from jepa_pipeline.config.custom import ClassPath, InitArgs
from jepa_pipeline.config.pixel_format import MAX_CHANNELS, RGB_CHANNELS, Bits, PixelFormat
from jepa_pipeline.config.section import MAX_COUNT, Section, Share

MAX_SOURCES = 1_000
"""A run's config.yaml has every key of each source, and is read within the limits of any recipe."""
MIN_SOURCE_SHARE = 1 / 4000
"""Smallest share of a data set in a mixture, which interleaves blocks of 4,096 samples that must contain every data set."""

WINDOW_SHARDS = 16
"""Shards whose samples are shuffled together in training: more would shuffle better, but read from more files at a time."""

MAX_MEGAPIXELS = 10_000.0
"""Pixels that decoding one sample may take by default, in millions: a clip of 1080p that is 4,800 frames behind a key frame."""

SLOW_S = 60.0
"""Seconds after which a sample that is still being read is named, by default and in probes."""


class SourceConfig(Section):
    """One data set of a mixture."""

    path: str = Field(
        min_length=1,
        description="Folder or URL (http, https, s3, gs, hf) of shards with a manifest.json; with class_path: the same, as a name.",
    )
    weight: float = Field(default=1.0, gt=0, description="Relative share of the samples; weights need not add up to 1.")
    class_path: ClassPath | None = Field(
        default=None, description="A map-style data set of yours in place of shards, such as my_parts.Photos (docs/python.md)."
    )
    init_args: InitArgs | None = Field(
        default=None, description="Keyword arguments that create it; null: an object, which pretrain was given from Python."
    )

    @model_validator(mode="before")
    @classmethod
    def name_class(cls, values: Any) -> Any:
        """Give a data set of the user's own its class as its name; one without arguments in a recipe takes none."""
        match values:
            case {"class_path": str(path), **others} if "path" not in others:
                return {"path": path, "init_args": {}, **values}
        return values

    @model_validator(mode="after")
    def check_class(self) -> Self:
        if self.class_path not in (None, self.path):
            raise ValueError(f"path is {self.path} and class_path {self.class_path}: give a folder or URL of shards, or your class")
        if self.class_path is None and self.init_args is not None:
            raise ValueError("init_args are the arguments of a class, but there is no class_path: name it, or remove init_args")
        return self


Sources = str | SourceConfig | list[str | SourceConfig]
"""Forms of data sets in a recipe."""


def parse_sources(value: object) -> object:
    """Return the entries of a mixture: a lone folder or URL, and every one in the list, becomes a source of weight 1."""
    entries = value if isinstance(value, list | tuple) else [value]
    if not entries:
        raise ValueError("it is an empty list, but data is a folder or URL of shards, or a list of {path: ..., weight: ...}")
    for entry in entries:
        if not isinstance(entry, str | Path | dict | SourceConfig):
            raise ValueError(f"it is {value!r}, but data is a folder or URL of shards, or a list of {{path: ..., weight: ...}}")
    return [{"path": str(entry)} if isinstance(entry, str | Path) else entry for entry in entries]


class DamageConfig(Section):
    """The handling of samples that cannot be read or decoded. No other sample moves."""

    policy: Literal["skip", "stop"] = Field(
        default="skip", description="skip: use the next sample of the stream instead; stop: end the run."
    )
    limit: Share = Field(default=0.01, description="Share of skipped samples that ends the run, checked after 1,000 samples.")
    max_megapixels: float = Field(
        default=MAX_MEGAPIXELS,
        gt=0,
        description="Megapixels that decoding one sample may take, beyond which it counts as damaged: of a video, those of all "
        "frames that must be decoded for its clips; of an image, width x height x scans of a progressive JPEG.",
    )
    slow_s: float | None = Field(
        default=SLOW_S, gt=0, description="Seconds after which a sample that is still being read is named; null: never."
    )


class CacheConfig(Section):
    """Local copies of remote shards, shared by all processes of a node. Local shards are not copied."""

    folder: Path | None = Field(default=None, description="Folder; null: jepa_pipeline/shards in the user's cache folder.")
    limit_gb: float = Field(
        default=200.0,
        gt=0,
        description="Size in GB above which the shards opened longest ago are deleted, except those still open.",
    )


class DataConfig(Section):
    """Training data. The number of workers never changes which samples are read."""

    train: Annotated[tuple[SourceConfig, ...], BeforeValidator(parse_sources, json_schema_input_type=Sources)] = Field(
        max_length=MAX_SOURCES,
        description="Folder or URL of shards with a manifest.json, as written by `jepa shards build`; "
        "or a mixture, such as [{path: data/a, weight: 3}, {path: data/b, weight: 1}].",
    )
    channels: int = Field(
        default=RGB_CHANNELS,
        ge=1,
        le=MAX_CHANNELS,
        description="Channels of the images. 3: RGB; gray and palettes become RGB, and transparency of PNG and WebP becomes white. "
        "Others: every image must have this number, and nothing is converted. Clips are always RGB.",
    )
    bits: Bits | None = Field(
        default=None,
        description="Bits per channel of decoded images, which are scaled to 0..1: 8 by 1/255, 16 by 1/65535. 16 holds images of "
        "both exactly; 8 halves the bytes of a batch, and refuses 16-bit images, save for 3 channels, where they are scaled "
        "to 8. null: 8 for 3 channels, else 16.",
    )
    workers: int = Field(default=2, ge=0, le=MAX_COUNT, description="Data workers per device; 0: decode in the training process.")
    prefetch_batches: int = Field(default=4, ge=1, le=MAX_COUNT, description="Batches that each worker prepares ahead.")
    check_hashes: bool = Field(
        default=False,
        description="Read all local shards before the first step, once on each node, and compare their SHA-256 with the manifest. "
        "Their sizes, and the SHA-256 of the indexes, which hold the labels, are always compared.",
    )
    damage: DamageConfig = Field(default_factory=DamageConfig, description="Unusable samples.")
    cache: CacheConfig = Field(default_factory=CacheConfig, description="Local copies of remote shards.")

    @property
    def pixel_format(self) -> PixelFormat:
        """Return the form in which images are decoded."""
        return PixelFormat(self.channels, self.bits or (8 if self.channels == RGB_CHANNELS else 16))

    @model_validator(mode="after")
    def check_sources(self) -> Self:
        paths = [source.path for source in self.train]
        if duplicates := {path for path in paths if paths.count(path) > 1}:
            raise ValueError(f"{min(duplicates)} is in the mixture twice: give it once, with the sum of the weights")
        total = sum(source.weight for source in self.train)
        for source in self.train:
            if source.weight / total < MIN_SOURCE_SHARE:
                raise ValueError(f"weight {source.weight:g} of {source.path} is under 1/4000 of the sum: raise it, or remove it")
        return self
