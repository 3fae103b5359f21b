"""Comparison of the networks of two configurations, by dotted key."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from jepa_pipeline.config.method import BaseMethodConfig
from jepa_pipeline.config.removed import result_value

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
