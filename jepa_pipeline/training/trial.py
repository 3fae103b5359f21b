"""The first steps of a run, timed: a callback that records them and then ends training, before anything is saved."""

import json
import resource
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.distributed import all_gather_object, all_reduce, rank, world_size
from jepa_pipeline.training.callbacks import StepCallback
from jepa_pipeline.training.module import Pretraining
from lightning import Trainer

WARM_UP = 1
"""Steps that are not timed, which allocate, compile and wait for the first batches."""
LEAST_STEPS = WARM_UP + 2


class TrialEnded(Exception):
    """All that a trial was to measure is written; raised in every process of the run."""


class TrialRecorder(StepCallback):
    """Records the losses of the first steps, their times and the memory, writes them and ends training by TrialEnded.

    The device is waited for after every step, which takes the same in all trials.

    Args:
        path: JSON file to write.
        steps: of the trial, fewer if they take longer than `seconds`, which do not count the warm-up.
        count_flops: count the FLOPs of the first micro-batch.
    """

    def __init__(self, path: Path, steps: int, seconds: float, count_flops: bool) -> None:
        self.path, self.steps, self.seconds, self.count_flops = path, steps, seconds, count_flops
        self.losses: list[Tensor] = []
        self.times: list[float] = []
        self.sum: Tensor | float = 0.0
        self.waited_s = 0.0
        self.counter: FlopCounterMode | None = None
        self.flops: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: Pretraining) -> None:
        super().on_train_start(trainer, pl_module)
        self.mark = self.batch_end = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        if len(self.losses) >= WARM_UP:
            self.waited_s += time.perf_counter() - self.batch_end
        if self.count_flops and self.flops is None:
            self.counter = FlopCounterMode(display=False)
            self.counter.__enter__()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Pretraining, *rest: Any) -> None:
        if self.counter is not None:
            self.counter.__exit__(None, None, None)
            self.flops, self.counter = float(self.counter.get_total_flops()), None
        self.sum = self.sum + pl_module.last_loss / pl_module.optim.accumulate_steps
        super().on_train_batch_end(trainer, pl_module, *rest)
        self.batch_end = time.perf_counter()

    def on_step(self, trainer: Trainer, module: Pretraining) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.times.append(now - self.mark)
        self.mark = now
        assert isinstance(self.sum, Tensor)
        self.losses.append(self.sum.detach().float())
        self.sum = 0.0
        over = sum(self.times[WARM_UP:]) >= self.seconds
        if len(self.times) >= self.steps or (len(self.times) >= LEAST_STEPS and any(all_gather_object(over))):
            self.finish(module)

    def finish(self, module: Pretraining) -> None:
        """Write what was recorded.

        Raises:
            TrialEnded: always, where Lightning's `should_stop` would end the run with a checkpoint.
        """
        losses = all_reduce(torch.stack(self.losses)) / world_size()
        memory = max(all_gather_object(peak_memory(module.device)))
        timed = self.times[WARM_UP:]
        micro_batches = module.optim.accumulate_steps * world_size()
        if rank() == 0:
            result = {
                "losses": losses.tolist(),
                "step_s": median(timed),
                "start_s": self.times[0],
                "waiting": self.waited_s / sum(timed),
                "memory_bytes": memory,
                "step_flops": None if self.flops is None else self.flops * micro_batches,
            }
            self.path.write_text(json.dumps(result))
        raise TrialEnded


def peak_memory(device: torch.device) -> int:
    """Return the largest size in bytes of all tensors on a GPU; on a CPU, of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
