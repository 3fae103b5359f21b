"""What each level of a stack adds to a step, and to the memory of one.

Stacks cut to their first level, to two levels and so on take steps in turns, in one process, on a random batch with real masks. A
level's cost is what the stack that ends with it takes beyond the one that ends below: its own networks, and the passes that it
makes through those under it.
"""

import gc
import os
from collections.abc import Callable
from functools import partial
from itertools import accumulate, pairwise
from statistics import median
from typing import Any, NamedTuple

import torch
from rich.table import Table
from timed_steps import OneBatch, Timed, Timeline, lengthen, milliseconds, run
from torch.profiler import ProfilerActivity, profile

from jepa_pipeline.config.hjepa import HJepaConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.loader import build_loader
from jepa_pipeline.masks.build import build_mask_samplers
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.models.transformer import set_fused_attn
from jepa_pipeline.training.parallel import parallelize
from jepa_pipeline.training.setup import choose_accelerator

ROUNDS = 5
WARM_UP = 2


class LevelCosts(NamedTuple):
    """Of the stacks of one level, of two and so on. rounds: milliseconds of a step, a list a round; peaks: bytes."""

    rounds: list[list[float]]
    peaks: list[int]


class Cut(Timed):
    """A stack that is timed; the memory that its first step took is forgotten."""

    def __init__(self, config: RunConfig, fused: bool) -> None:
        accelerator = choose_accelerator(config.trainer.accelerator)
        super().__init__(config, parallelize(build_method(config.method), config.trainer, accelerator, local_size=1))
        set_fused_attn(self, fused=fused)
        self.timeline = Timeline(lambda: 0, lambda *_: 0.0)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, *args: Any) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, *args)
        if self.step == 1 and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def take_steps(self, count: int) -> list[float]:
        """Milliseconds of each but the first few."""
        config, accelerator = self.config, choose_accelerator(self.config.trainer.accelerator)
        self.timeline = milliseconds(accelerator)
        numbers = [[0]] * (WARM_UP + count) * config.optim.accumulate_steps
        batches = build_loader(
            OneBatch(config, build_mask_samplers(config.method)), numbers, workers=0, pin_memory=accelerator == "cuda"
        )
        return run(self, batches, self.timeline, WARM_UP + count, accelerator).wholes(WARM_UP)


def cut(config: RunConfig) -> list[RunConfig]:
    """The run of the first level alone, that of the first two, and so on to the whole."""
    method = config.method
    assert isinstance(method, HJepaConfig)
    counts = range(1, len(method.levels) + 1)
    methods = [method.model_copy(update={"levels": method.levels[:count]}) for count in counts]
    return [config.model_copy(update={"method": shorter}) for shorter in methods]


def compare_levels(config: RunConfig, steps: int, fused: bool) -> LevelCosts:
    """The cost of every stack in each of a few rounds, a median of so many steps; fused: attention is torch's call."""
    config = lengthen(config, ROUNDS * (WARM_UP + steps) + WARM_UP + 1)
    measured = [peak_memory(partial(begun, part, fused), choose_accelerator(config.trainer.accelerator)) for part in cut(config)]
    peaks, stacks = zip(*measured, strict=True)
    return LevelCosts([[median(stack.take_steps(steps)) for stack in stacks] for _ in range(ROUNDS)], [*peaks])


def begun(config: RunConfig, fused: bool) -> Cut:
    torch.manual_seed(config.seed)
    stack = Cut(config, fused)
    stack.take_steps(1)
    return stack


def peak_memory(work: Callable[[], Cut], accelerator: str) -> tuple[int, Cut]:
    """The most bytes that tensors took at a time beyond those there were, on a GPU as its allocator counts and on a CPU as torch's
    profiler does; and what came out of the work.
    """
    gc.collect()
    if accelerator == "cuda":
        before = torch.cuda.memory_allocated()
        stack = work()
        return torch.cuda.max_memory_allocated() - before, stack
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # it says when it starts and stops
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        stack = work()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events: list[Any] = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))), stack


def added(totals: list[float] | list[int]) -> list[float]:
    """By each level, from what the stacks up to it take."""
    return [above - below for below, above in pairwise([0, *totals])]


def levels_table(costs: LevelCosts, title: str) -> Table:
    """A row a level, then the whole stack. Shares are medians of those in each round, with the least and the largest."""
    table = Table("level", title=title)
    for column in ("ms", "share of the step", "MiB at the peak", "share of the peak"):
        table.add_column(column, justify="right")
    times, shares = [added(one) for one in costs.rounds], [[ms / one[-1] for ms in added(one)] for one in costs.rounds]
    for number, memory in enumerate(added(costs.peaks)):
        ms, share = median(one[number] for one in times), sorted(one[number] for one in shares)
        spread = f"{median(share):.1%} ({share[0]:.1%} to {share[-1]:.1%})"
        table.add_row(str(number + 1), f"{ms:,.4g}", spread, f"{memory / 2**20:,.4g}", f"{memory / costs.peaks[-1]:.1%}")
    table.add_section()
    table.add_row("all", f"{median(one[-1] for one in costs.rounds):,.4g}", "", f"{costs.peaks[-1] / 2**20:,.4g}", "")
    table.caption = f"{len(costs.rounds)} rounds, in each of which the stacks up to every level took turns"
    return table
