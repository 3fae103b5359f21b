"""Suggestions for keys and values that do not exist."""

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from jepa_pipeline.config.layers import Key
from jepa_pipeline.config.section import section_types

TYPO = 0.75
"""Least similarity, of difflib, of a misspelled key. Keys that share one word of two, as batch_size and image_size, have less."""

OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "batch_size_global": ("batch_size", "batch", "bs", "global_batch_size", "train_batch_size"),
    "batch_size": ("batch", "bs"),
    "lr": ("learning_rate", "base_lr", "max_lr", "peak_lr"),
    "start_lr": ("warmup_lr", "init_lr"),
    "final_lr": ("min_lr", "end_lr"),
    "total_samples": ("epochs", "max_epochs", "num_epochs", "steps", "max_steps", "num_steps", "total_steps", "iterations"),
    "warmup_samples": ("warmup", "warmup_epochs", "warmup_steps"),
    "weight_decay": ("wd",),
    "clip_norm": ("clip_grad", "grad_clip", "gradient_clip_val", "max_grad_norm"),
    "accumulate_steps": ("accumulate_grad_batches", "gradient_accumulation_steps", "grad_accum", "accum_iter"),
    "ema": ("ema_momentum", "ema_decay", "momentum_teacher", "target_momentum"),
    "workers": ("num_workers", "n_workers"),
    "devices": ("gpu", "gpus", "num_gpus", "n_gpus", "ngpus", "num_devices"),
    "nodes": ("num_nodes",),
    "accelerator": ("device",),
    "restarts": ("max_restarts", "num_restarts"),
    "silent_s": ("heartbeat_timeout", "heartbeat_timeout_s"),
    "max_megapixels": ("max_pixels", "max_image_pixels"),
    "precision": ("amp", "fp16", "bf16", "dtype", "mixed_precision"),
    "image_size": ("img_size", "resolution", "input_size"),
    "arch": ("model", "architecture", "backbone"),
    "train": ("dataset", "data_dir", "data_path", "path", "root", "train_data"),
    "init_from": ("pretrained", "init", "init_weights", "load_from"),
    "output": ("output_dir", "out", "out_dir", "save_dir", "log_dir"),
    "name": ("run_name", "exp_name", "experiment"),
    "seed": ("random_seed", "manual_seed"),
    "wandb_project": ("project",),
    "log.every_steps": ("log_every", "log_interval", "log_every_n_steps", "print_freq"),
    "checkpoint.every_steps": ("save_every", "save_interval", "save_freq"),
}
"""The names that other programs have for a key."""

OTHER_VALUES = {
    **{"gpu": "cuda", "gpus": "cuda", "fsdp": "fsdp2"},
    **dict.fromkeys(("float32", "32", "32-true"), "fp32"),
    **dict.fromkeys(("bfloat16", "bf16-mixed", "fp16", "float16", "half", "16", "16-mixed"), "bf16"),
}
"""Values as other programs call them; fp16 needs a scaled loss and is replaced by bf16."""
VIT = re.compile(r"^vit[-_]?(ti|tiny|s|small|b|base|l|large|h|huge|g|giant)(?![a-z])")
VIT_SIZES = {
    **dict.fromkeys(("ti", "tiny"), "vit_tiny"),
    **dict.fromkeys(("s", "small"), "vit_small"),
    **dict.fromkeys(("b", "base"), "vit_base"),
    **dict.fromkeys(("l", "large"), "vit_large"),
    **dict.fromkeys(("h", "huge"), "vit_huge"),
    **dict.fromkeys(("g", "giant"), "vit_giant"),
}
"""The sizes of vision transformers by the letters of the papers, and the words of timm."""


def nearest_key(keys: Iterable[str], section: type[BaseModel] | None, around: Key, name: str) -> str | None:
    """Return the key that a misspelled, misplaced or differently called one resembles most.

    Args:
        keys: all dotted keys of the configuration, for one that is misplaced.
        section: where the key was given.
        around: the dotted key of that section.
        name: the key in it.
    """
    here, fields = ".".join(map(str, around)), list(section.model_fields) if section else []
    renamed = [key for key, others in OTHER_NAMES.items() if name in others]
    found = (
        [key for key in renamed if key in fields] or longer_names(name, fields) or get_close_matches(name, fields, 1, cutoff=TYPO)
    )
    if found:
        return ".".join(map(str, (*around, found[0])))
    known = [dotted for dotted in keys if dotted.rpartition(".")[0] != here]  # not those of another type
    for target in (name, *renamed):
        if elsewhere := [dotted for dotted in known if f".{dotted}".endswith(f".{target}")]:
            return elsewhere[0]
    close = get_close_matches(f"{here}.{name}", known, 3, cutoff=0.8)
    return next((key for key in close if not key.startswith(f"{here}.{name}.")), None)


def other_unit(name: str, key: str) -> str:
    """Return the unit of a key where another program's key counts epochs or steps."""
    last = key.rpartition(".")[2]
    return ", in samples" if last.endswith("_samples") and name in OTHER_NAMES.get(last, ()) else ""


def longer_names(name: str, fields: list[str]) -> list[str]:
    """Return the keys that begin, and then those that end, with a name and have further words."""
    return [key for key in fields if key.startswith(f"{name}_")] + [key for key in fields if key.endswith(f"_{name}")]


def nearest_value(value: object, allowed: list[str]) -> str | None:
    """Return the allowed value that another one resembles most."""
    text = str(value).lower()
    other = OTHER_VALUES.get(text) or VIT_SIZES.get(next(iter(VIT.findall(text)), ""))
    if other in allowed:
        return other
    plain = {name.replace("_", "").replace("-", ""): name for name in allowed}
    squeezed = text.replace("_", "").replace("-", "")
    return plain.get(squeezed) or next(iter(get_close_matches(text, allowed, 1, cutoff=0.6)), None)


def assignment_in(section: type[BaseModel] | None, dotted: str, value: object) -> str:
    """Return, for a section that was given a value, what to set: the key with that value, else a key of the section."""
    field = section.model_fields.get(dotted.rpartition(".")[2]) if section else None
    options = section_types(field.annotation) if field else []
    literals = {str(text): key for option in options for key, text in literal_values(option)}
    near = nearest_value(value, list(literals))
    if near is not None:
        return f"did you mean {dotted}.{literals[near]}={near}?"
    kinds = [text for text, key in literals.items() if key == "name"]
    if kinds:
        return f"choose its kind with {dotted}.name, one of {', '.join(kinds)}"
    required = [key for option in options for key, below in option.model_fields.items() if below.is_required()]
    if required and isinstance(value, str):
        return f"did you mean {dotted}.{required[0]}={value}?"
    return f"set its keys, such as {dotted}.{next(iter(options[0].model_fields))}" if options else "set keys below it"


def literal_values(section: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Yield the keys of a section that have a fixed choice of values, with each of these values."""
    for key, field in section.model_fields.items():
        for part in (field.annotation, *get_args(field.annotation)):
            if get_origin(part) is Literal:
                yield from ((key, value) for value in get_args(part))
