"""The time and memory that each level of a stack adds to an optimizer step.

Stacks of the first level, of the first two levels and so on take steps in turns, in one process, on a random batch with real masks.
The cost of a level is the difference between the stack that ends with it and the one that ends below: its own networks, and its
passes through the levels below.
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
from timed_steps import TimedPretraining, extend_run, millisecond_timeline, repeated_batches, train_steps
from torch.profiler import ProfilerActivity, profile

from jepa_pipeline.config.hjepa import HJepaConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.models.transformer import set_fused_attn
from jepa_pipeline.training.parallel import parallelize
from jepa_pipeline.training.setup import choose_accelerator

ROUNDS = 5
WARM_UP = 2


class LevelCosts(NamedTuple):
    """Costs of the stacks of one level, of two and so on.

    Attributes:
        rounds: milliseconds of a step of each stack, a list per round.
        peaks: bytes of memory of each stack.
    """

    rounds: list[list[float]]
    peaks: list[int]


def compare_levels(config: RunConfig, steps: int, fused: bool) -> LevelCosts:
    """Measure every truncated stack in each of ROUNDS rounds.

    Args:
        config: a run of hjepa.
        steps: steps per round and stack, whose median counts.
        fused: use torch's fused attention.
    """
    config, device = extend_run(config, ROUNDS * (WARM_UP + steps) + WARM_UP + 1), choose_accelerator(config.trainer.accelerator)
    measured = [measure_peak_memory(partial(start, part, fused), device) for part in truncate(config)]
    peaks, stacks = zip(*measured, strict=True)
    return LevelCosts([[median(time_steps(stack, steps)) for stack in stacks] for _ in range(ROUNDS)], [*peaks])


def truncate(config: RunConfig) -> list[RunConfig]:
    """Return the run of the first level alone, of the first two, and so on."""
    method = config.method
    assert isinstance(method, HJepaConfig)
    counts = range(1, len(method.levels) + 1)
    methods = [method.model_copy(update={"levels": method.levels[:count]}) for count in counts]
    return [config.model_copy(update={"method": truncated}) for truncated in methods]


def start(config: RunConfig, fused: bool) -> TimedPretraining:
    """Build a stack and take its first steps."""
    torch.manual_seed(config.seed)
    device = choose_accelerator(config.trainer.accelerator)
    stack = TimedPretraining(config, parallelize(build_method(config.method), config.trainer, device, local_size=1))
    set_fused_attn(stack, fused=fused)
    time_steps(stack, 1)
    return stack


def time_steps(stack: TimedPretraining, count: int) -> list[float]:
    """Take WARM_UP + `count` optimizer steps; return the milliseconds of the last `count`."""
    device, steps = choose_accelerator(stack.config.trainer.accelerator), WARM_UP + count
    batches = repeated_batches(stack.config, steps, pin_memory=device == "cuda")
    return train_steps(stack, batches, millisecond_timeline(device), steps, device).step_times(WARM_UP)


def measure_peak_memory(work: Callable[[], TimedPretraining], device: str) -> tuple[int, TimedPretraining]:
    """Return the largest number of bytes in tensors beyond those before, and the result of the work.

    GPUs: from torch's allocator. CPUs: from the memory events of torch's profiler.
    """
    gc.collect()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        stack = work()
        return torch.cuda.max_memory_allocated() - before, stack
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler prints when it starts and stops
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        stack = work()
    # The public averages of the profiler have no order in time, which a running sum needs.
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events: list[Any] = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))), stack


def differences(totals: list[float] | list[int]) -> list[float]:
    """Return what each level adds, from the totals of the stacks up to it."""
    return [above - below for below, above in pairwise([0, *totals])]


def levels_table(costs: LevelCosts, title: str) -> Table:
    """Return a table with a row per level, then the stack; shares are medians over rounds with their range."""
    table = Table("level", title=title)
    for column in ("ms", "share of the step", "MiB at the peak", "share of the peak"):
        table.add_column(column, justify="right")
    times = [differences(totals) for totals in costs.rounds]
    shares = [[ms / totals[-1] for ms in differences(totals)] for totals in costs.rounds]
    for number, memory in enumerate(differences(costs.peaks)):
        ms, share = median(levels[number] for levels in times), sorted(levels[number] for levels in shares)
        spread = f"{median(share):.1%} ({share[0]:.1%} to {share[-1]:.1%})"
        table.add_row(str(number + 1), f"{ms:,.4g}", spread, f"{memory / 2**20:,.4g}", f"{memory / costs.peaks[-1]:.1%}")
    table.add_section()
    table.add_row("all", f"{median(totals[-1] for totals in costs.rounds):,.4g}", "", f"{costs.peaks[-1] / 2**20:,.4g}", "")
    table.caption = f"{len(costs.rounds)} rounds, in each of which the stacks up to every level took turns"
    return table
