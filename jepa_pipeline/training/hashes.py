"""hashes.jsonl: the SHA-256 of every batch and all state, by which two runs can be compared tensor by tensor."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.batch import Batch
from jepa_pipeline.distributed import full_tensor, rank
from jepa_pipeline.training.callbacks import StepCallback, is_due
from jepa_pipeline.training.checkpoint_callback import run_state
from jepa_pipeline.training.loggers import append_row, truncate_rows
from jepa_pipeline.training.module import Pretraining
from lightning import Trainer


class HashLogger(StepCallback):
    """Logs the hashes of a step's micro-batches on rank 0, and of all state after the step.

    Args:
        path: hashes.jsonl of the run.
        every_steps: steps between two rows.
    """

    def __init__(self, path: Path, every_steps: int) -> None:
        self.path = path
        self.every_steps = every_steps
        self.batch_hashes: dict[str, str] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Pretraining) -> None:
        super().on_train_start(trainer, pl_module)
        if rank() == 0:
            truncate_rows(self.path, pl_module.step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Pretraining, outputs: Any, batch: Batch, batch_idx: int) -> None:
        name = f"batch.{batch_idx % pl_module.optim.accumulate_steps}"
        fields = batch._asdict()
        del fields["damaged"]  # sentences that name this machine's paths
        self.batch_hashes |= {leaf: hash_value(value) for leaf, value in flatten({name: fields})}
        super().on_train_batch_end(trainer, pl_module)

    def on_step(self, trainer: Trainer, module: Pretraining) -> None:
        if is_due(module, self.every_steps):
            shared, own = run_state(trainer.optimizers[0], module)
            state = {leaf: hash_value(value) for leaf, value in flatten({**shared, "own": own})}
            if rank() == 0:
                append_row(self.path, {**self.batch_hashes, **state, "step": module.step})
        self.batch_hashes = {}


def flatten(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dicts, lists and tuples with their dotted names; a list of plain values is one leaf."""
    match tree:
        case dict() if tree:
            for key, value in tree.items():
                yield from flatten(value, f"{name}.{key}" if name else f"{key}")
        case list() | tuple() if any(isinstance(value, Tensor | dict | list | tuple) for value in tree):
            names = getattr(tree, "_fields", range(len(tree)))
            yield from flatten(dict(zip(names, tree, strict=True)), name)
        case _:
            yield name, tree


def hash_value(value: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of a tensor's dtype, shape and bytes, or of a plain value's repr."""
    if not isinstance(value, Tensor):
        return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
    tensor = full_tensor(value.detach())
    if rank() > 0:
        return ""  # the collective above needs all ranks, but only rank 0 writes
    tensor = tensor.cpu().contiguous()
    header = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    return hashlib.sha256(header + tensor.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
