"""Comparison of the networks of two configurations, by dotted key."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jepa_pipeline.config.encoder_card import AnyEncoderConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.method import BaseMethodConfig
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.removed import result_value
from jepa_pipeline.config.section import flatten
from jepa_pipeline.config.stack import CoarseEncoderConfig

MAY_DIFFER = re.compile(
    r"(.*\.)?(image_size|patch_size|frames|in_channels|init_std|init_depth_scaling|mask_token_std|args\.\w*drop\w*)"
)
"""Keys of a network on which its trained weights do not depend, or to which they are fitted (models/fit_weights.py)."""
NAMED = 3
"""Differences that a sentence names."""


def may_differ(key: str) -> bool:
    """Return whether networks that differ in a key can have the same weights, but for what is fitted."""
    return MAY_DIFFER.fullmatch(key) is not None


def encoder_key(method: BaseMethodConfig, level: int) -> str:
    """Return the start of the keys of a level's encoder, counted from 0, with a dot at its end."""
    return f"method.levels.{level}.encoder." if hasattr(method, "levels") else "method.encoder."


def name_differences(there: Mapping[str, Any], here: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Return the first keys whose values differ, and the cure, as the end of a sentence; "" if none do."""
    values = {key: (result_value(there, key), result_value(here, key)) for key in keys}
    differing = [f"{key} is {first}, but here it is {second}" for key, (first, second) in values.items() if first != second]
    if not differing:
        return ""
    cure = "make it the same" if len(differing) == 1 else "make them the same"
    more = f" and {len(differing) - NAMED} more keys differ" if len(differing) > NAMED else ""
    return f"{'; '.join(differing[:NAMED])}{more}: {cure}"


def check_same_architecture(folder: Path, saved: AnyEncoderConfig, method: BaseMethodConfig) -> None:
    """Refuse an encoder of another architecture, also where its weights have the same shapes, and name the keys that differ."""
    own = [method.encoder, *getattr(method, "above", ())]
    levels = [*level_configs(saved)]
    if isinstance(saved, BackboneConfig) != isinstance(own[0], BackboneConfig):
        raise UserError(
            f"init_from is {folder}, which is {saved.describe()}, but method.encoder of {method.name} is {own[0].describe()}: name "
            "an encoder of that kind, or choose a method that trains this one"
        )
    if saved.modality != method.encoder.modality:
        unit = method.encoder.modality.unit
        raise UserError(
            f"init_from is {folder}, {saved.modality.encoder}, but this run trains on {unit}: name {own[0].modality.encoder}"
        )
    if len(levels) > len(own):
        raise UserError(
            f"init_from is {folder}, a stack of {len(levels)} levels, but {method.name} has {len(own)} here: name what "
            f"`jepa export {folder} --to jepa --level {len(own)}` writes"
        )
    there, here = dict[str, Any](), dict[str, Any]()
    for number, (first, second) in enumerate(zip(levels, own, strict=False)):
        key = encoder_key(method, number)
        there |= {f"{key}{name}": value for name, value in network_values(first).items()}
        here |= {f"{key}{name}": value for name, value in network_values(second).items()}
    if differences := name_differences(there, here, sorted(there.keys() | here.keys())):
        raise UserError(f"init_from is {folder}, where {differences}")


def level_configs(encoder: AnyEncoderConfig) -> Iterator[EncoderConfig | BackboneConfig | CoarseEncoderConfig]:
    """Yield the configuration of each level, from the pixels up, as a method has it."""
    yield getattr(encoder, "first", encoder)
    yield from getattr(encoder, "above", ())


def network_values(config: EncoderConfig | BackboneConfig | CoarseEncoderConfig) -> dict[str, Any]:
    """Return the values that a network's weights depend on; those of an architecture by name are its sizes."""
    values = dict(flatten(config.model_dump(mode="json")))
    if isinstance(config, EncoderConfig):
        values = {**values, "arch": None, **config.size._asdict()}
    return {name: value for name, value in values.items() if not may_differ(name)}
