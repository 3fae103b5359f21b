"""Names of encoders in reports, and the levels of a stack that they stand for."""

from pathlib import Path

from jepa_pipeline.config.encoder_card import AnyEncoderConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.level import Level
from jepa_pipeline.config.stack import StackConfig
from jepa_pipeline.results.probe_report import EncoderName

UNTRAINED = "random_init"


def level_name(level: Level) -> EncoderName:
    """Return the name of a level's features, or of those of all levels concatenated."""
    return "levels" if level == "all" else f"level{level}"


def untrained_name(level: Level) -> EncoderName:
    """Return the name of the same features of the untrained baseline."""
    return f"{UNTRAINED}_{level_name(level)}"


def is_untrained(name: EncoderName) -> bool:
    """Return whether this is a baseline that does not depend on the run's weights."""
    return name == "pixels" or name.startswith(UNTRAINED)


def is_baseline(name: EncoderName) -> bool:
    """Return whether this is anything but the run's encoder on unmodified samples."""
    return is_untrained(name) or name.startswith("frames_")


def level_of(name: EncoderName) -> Level | None:
    """Return the level that a name stands for, None for the names of a single encoder and of the frames baselines."""
    suffix = name.removeprefix(f"{UNTRAINED}_")
    return "all" if suffix == "levels" else int(suffix.removeprefix("level")) if suffix.startswith("level") else None


def choose_level(config: AnyEncoderConfig, level: Level | None, folder: Path) -> Level | None:
    """Return the level of a stack to read, None for each level and all levels concatenated, or for a single encoder.

    Args:
        config: of the encoder.
        level: the value of --level; None: the card's.
        folder: of the encoder, for the message.

    Raises:
        UserError: there is no such level.
    """
    count = len(config.levels)
    if isinstance(level, int) and not 1 <= level <= count:
        levels, cure = (f"{count} levels", f"a number from 1 to {count}, or all") if count > 1 else ("1 level", "1, or omit it")
        raise UserError(f"--level {level}: the encoder of {folder} has {levels}: give {cure}")
    if not isinstance(config, StackConfig):
        return None
    return level or (None if config.level == "all" else config.level)


def levels_to_probe(config: AnyEncoderConfig, level: Level | None) -> tuple[Level, ...]:
    """Return the levels of a stack that are probed; of several, the last is all of them concatenated."""
    if level is not None:
        return (level,)
    count = len(config.levels)
    return (*range(1, count + 1), *(("all",) if count > 1 else ()))
