"""hashes.jsonl: the SHA-256 of everything a step leaves behind, so that two runs can be compared tensor by tensor."""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.batch import Batch
from jepa_pipeline.distributed import rank, whole
from jepa_pipeline.training.callbacks import StepCallback, due
from jepa_pipeline.training.checkpoint_callback import snapshot
from jepa_pipeline.training.loggers import append, trim
from jepa_pipeline.training.module import Pretraining
from lightning import Trainer

HASHES = "hashes.jsonl"


class Hashes(StepCallback):
    """Hashes the micro-batches of a step and all state after it; of several processes the first one's batches."""

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps
        self.parts: dict[str, str] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Pretraining) -> None:
        super().on_train_start(trainer, pl_module)
        self.path = pl_module.config.folder / HASHES
        if rank() == 0:
            trim(self.path, pl_module.step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Pretraining, outputs: Any, batch: Batch, batch_idx: int) -> None:
        part = f"batch.{batch_idx % pl_module.config.optim.accumulate_steps}"
        fields = batch._asdict()
        del fields["damaged"]
        self.parts |= {name: digest(value) for name, value in leaves({part: fields})}
        super().on_train_batch_end(trainer, pl_module)

    def on_step(self, trainer: Trainer, module: Pretraining) -> None:
        if due(module, self.every_steps):
            shared, own = snapshot(trainer.optimizers[0], module)
            state = {name: digest(value) for name, value in leaves({**shared, "own": own})}
            if rank() == 0:
                append(self.path, {**self.parts, **state, "step": module.step})
        self.parts = {}


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in nested dicts, lists and tuples by its dotted name; a list of plain values is one leaf."""
    match tree:
        case dict() if tree:
            for key, value in tree.items():
                yield from leaves(value, f"{name}.{key}" if name else f"{key}")
        case list() | tuple() if any(isinstance(value, Tensor | dict | list | tuple) for value in tree):
            names = getattr(tree, "_fields", range(len(tree)))
            yield from leaves(dict(zip(names, tree, strict=True)), name)
        case _:
            yield name, tree


def digest(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of a tensor's kind, shape and bytes, or of a plain value's text."""
    if not isinstance(value, Tensor):
        return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
    everything = whole(value.detach())
    if rank() > 0:
        return ""  # it had to take part in that, but the first one writes
    everything = everything.cpu().contiguous()
    text = f"{everything.dtype} {tuple(everything.shape)}".encode()
    return hashlib.sha256(text + everything.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
