"""Keys that earlier versions had: refused in recipes with a sentence on what to do, upgraded in what those versions saved.

Keys that earlier versions did not have are listed too, so that their runs are recognized.
"""

import re
from collections.abc import Mapping
from typing import Any

RENAMED_KEYS = {
    r"(views\.crops(\.\d+)?)\.grey": (r"\1.gray", "it is spelled gray now: rename it"),
    r"(method\.levels\.\d+)\.question": (r"\1.task", "it is called task now: rename it"),
}
"""Patterns of whole dotted keys of values or sections, with the new key and what to do."""

REMOVED_KEYS: dict[str, tuple[object, str]] = {
    r"data\.window_shards": (16, "16 shards are always shuffled together: remove it"),
    r"checkpoint\.keep_every": (
        None,
        "only the newest checkpoints are kept: remove it, or keep snapshots with probing.every_steps",
    ),
    r"checkpoint\.leave_within_s": (120, "a run that does not stop within 120 s of a stop signal is ended: remove it"),
    r"health\.vectors": (2048, "health is always measured on 2048 vectors: remove it"),
    r"health\.vectors_per_step": (64, "64 vectors are always taken per step: remove it"),
    r"optim\.trust_coefficient": (0.001, "LARS always uses 0.001, as published: remove it"),
    r"views\.largest_side": (640, "images are always shrunk to 640 pixels before the device crops them: remove it"),
    r"method\.(levels\.\d+\.task\.)?masks\.\d+\.edges": (
        "wrap",
        "blocks wrap around the edges, and never do under legacy: remove it",
    ),
    r"method\.(levels\.\d+\.task\.)?masks\.(\d+\.)?legacy_min_keep": (10, "it is always 10, as published: remove it"),
}
"""Patterns of whole dotted keys, with the value that is always used now and what to do."""

REMOVED_VALUES = {("views.clip.start", "centre"): ("center", "it is spelled center now")}
"""Dotted keys and their former values, with the new value and what to do."""

ADDED_KEYS: dict[str, object] = {
    r"data\.channels": 3,
    r"data\.bits": None,
    r"method\.(levels\.\d+\.)?encoder\.in_channels": 3,
    r"views\.interpolation": "bicubic",
    r"views\.antialias": True,
    r"views\.clip\.spacing": "exact",
    r"method\.(levels\.\d+\.)?(encoder|predictor)\.init_depth_scaling": False,
    r"method\.(levels\.\d+\.)?predictor\.mask_token_std": 0.02,
    r"method\.(levels\.\d+\.)?predictor\.shared_mask_token": False,
    r"method\.(levels\.\d+\.)?encoder\.norm_eps": None,
    r"optim\.clip_after_warmup": False,
}
"""Patterns of whole dotted keys that earlier versions did not have, with the value that they always used, the default."""


def added_default(key: str, value: object) -> bool:
    """Return whether earlier versions did not have this key and always used this value."""
    return any(value == constant and re.fullmatch(pattern, key) for pattern, constant in ADDED_KEYS.items())


def result_value(results: Mapping[str, Any], key: str) -> Any:
    """Return a value of RunConfig.results by its dotted key; for a key that is left out, what earlier versions used."""
    default = next((constant for pattern, constant in ADDED_KEYS.items() if re.fullmatch(pattern, key)), None)
    return results.get(key, default)


def removed_key(key: str) -> str | None:
    """Return what replaced a key that earlier versions had; None for any other key."""
    cures = [(pattern, cure) for pattern, (_, cure) in (RENAMED_KEYS | REMOVED_KEYS).items()]
    return next((cure for pattern, cure in cures if re.fullmatch(pattern, key)), None)


def removed_value(key: str, value: object) -> str | None:
    """Return what replaced a value that a key had in earlier versions; None for any other value."""
    _, cure = REMOVED_VALUES.get((key, str(value)), (None, None))
    return cure


def upgrade_saved(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return saved configuration values under the present keys, without removed keys that have the value always used now.

    A removed key with another value is left for the caller to refuse.

    Args:
        values: nested sections, or values by dotted key.
        prefix: the dotted key of the section that holds them, with a dot at its end.
    """
    upgraded: dict[str, Any] = {}
    for name, value in values.items():
        key = prefix + name
        for pattern, (replacement, _) in RENAMED_KEYS.items():
            key = re.sub(rf"^{pattern}(?=\.|$)", replacement, key)  # also at the start of a longer dotted key
        if any(re.fullmatch(pattern, key) and value == constant for pattern, (constant, _) in REMOVED_KEYS.items()):
            continue
        if isinstance(value, Mapping):
            value = upgrade_saved(value, f"{key}.")
        elif isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
            value = list(upgrade_saved({str(number): entry for number, entry in enumerate(value)}, f"{key}.").values())
        value, _ = REMOVED_VALUES.get((key, str(value)), (value, ""))
        upgraded[key.removeprefix(prefix)] = value
    return upgraded
