"""The levels of a stack: which of them is asked, and what their numbers are called."""

from pathlib import Path

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.level import Level
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.stack import StackConfig
from jepa_pipeline.probes.report import EncoderName

AnyEncoderConfig = EncoderConfig | BackboneConfig
TWIN = "random_init"


def level_name(level: Level) -> EncoderName:
    """What a level's features are called, by themselves or, all, beside one another."""
    return "levels" if level == "all" else f"level{level}"


def twin_name(level: Level) -> EncoderName:
    """What those of the untrained twin are called."""
    return f"{TWIN}_{level_name(level)}"


def is_untrained(name: EncoderName) -> bool:
    """Whether it is a baseline that knows nothing of the run's weights."""
    return name == "pixels" or name.startswith(TWIN)


def is_trained_whole(name: EncoderName) -> bool:
    """Whether it is what a run has learned, shown samples as they are."""
    return not is_untrained(name) and not name.startswith("frames_")


def level_of(name: EncoderName) -> Level | None:
    """The level a name is of; None: it is of none, as all names of a flat encoder are."""
    last = name.removeprefix(f"{TWIN}_")
    return "all" if last == "levels" else int(last.removeprefix("level")) if last.startswith("level") else None


def check_level(config: AnyEncoderConfig, asked: Level | None, folder: Path) -> Level | None:
    """The one level of a stack that is to be read; None: each by itself and all together, or the encoder is no stack.

    A flat encoder is its only level, so that there is nothing to choose.

    Raises:
        UserError: there is no such level.
    """
    stacked = isinstance(config, StackConfig)
    count = len(config.levels) if stacked else 1
    if isinstance(asked, int) and not 1 <= asked <= count:
        there, cure = (f"{count} levels", f"a number from 1 to {count}, or all") if count > 1 else ("1 level", "1, or nothing")
        raise UserError(f"--level {asked}: the encoder of {folder} has {there}: give {cure}")
    if not stacked:
        return None
    return asked or (None if config.level == "all" else config.level)


def wanted_levels(config: StackConfig, level: Level | None) -> tuple[Level, ...]:
    """Those whose features are probed; of several the last is all of them together."""
    if level is not None:
        return (level,)
    count = len(config.levels)
    return (*range(1, count + 1), *(("all",) if count > 1 else ()))


def up_to(config: AnyEncoderConfig, level: Level | None) -> AnyEncoderConfig:
    """A stack without what is above the level that is read: a single level is a plain encoder."""
    if not isinstance(config, StackConfig) or level is None:
        return config
    if level == 1:
        return config.first
    above = config.above if level == "all" else config.above[: level - 1]
    return StackConfig.model_validate({**config.model_dump(), "above": [one.model_dump() for one in above], "level": level})
