"""Keys that earlier versions had, with a sentence on what to do instead."""

import re

REMOVED_KEYS = {
    r"views\.crops(\.\d+)?\.grey": "it is spelled gray now: rename it",
    r"data\.window_shards": "16 shards are always shuffled together: remove it",
    r"checkpoint\.keep_every": "only the newest checkpoints are kept: remove it, or keep snapshots with probing.every_steps",
    r"checkpoint\.leave_within_s": "a run that does not stop within 120 s of a stop signal is ended: remove it",
    r"health\.vectors": "health is always measured on 2048 vectors: remove it",
    r"health\.vectors_per_step": "64 vectors are always taken per step: remove it",
    r"trainer\.silent_s": "a process is always taken for dead after 60 s without a heartbeat: remove it",
    r"optim\.trust_coefficient": "LARS always uses 0.001, as published: remove it",
    r"views\.largest_side": "images are always shrunk to 640 pixels before the device crops them: remove it",
    r"method\.(levels\.\d+\.task\.)?masks\.\d+\.edges": "blocks wrap around the edges, and never do under legacy: remove it",
    r"method\.(levels\.\d+\.task\.)?masks\.(\d+\.)?legacy_min_keep": "it is always 10, as published: remove it",
    r"method\.levels\.\d+\.question": "it is called task now: rename it",
}
"""Patterns of whole dotted keys, and what replaced them."""

REMOVED_VALUES = {("views.clip.start", "centre"): "it is spelled center now"}
"""Dotted keys and their former values, and what replaced these."""


def removed_key(key: str) -> str | None:
    """Return what replaced a key that earlier versions had; None for any other key."""
    return next((cure for pattern, cure in REMOVED_KEYS.items() if re.fullmatch(pattern, key)), None)
