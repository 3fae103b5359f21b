"""The progress of a run on the console: a bar on a terminal, lines elsewhere; the time left, and in words what is slow."""

import time
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from jepa_pipeline.cluster.collapse import describe_collapse
from jepa_pipeline.console import PRINT_INTERVAL_S, describe_seconds, is_printed, note

WARM_UP_STEPS = 3
"""First steps of a process that say nothing about the others: they start data workers, compile and choose kernels."""
MEASURED_STEPS = 10
"""Steps of a process after which the time of the whole run is estimated."""
WINDOW_STEPS = 1000
"""Newest steps over which times are averaged, so that a checkpoint or a slow file does not move the estimate."""
SLOW_SHARE = 0.25
"""Share of the time spent waiting for data above which it is said."""
REPEAT_S = 1800.0
"""Seconds after which it is said again."""


class Mark(NamedTuple):
    """The end of a step: the time, and the seconds that were spent waiting for data until then."""

    now_s: float
    waited_s: float


class Pace:
    """The pace of the newest steps, without the first ones of the process.

    Attributes:
        steps: that this process has taken.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.marks = deque[Mark](maxlen=WINDOW_STEPS + 1)

    def add(self, now_s: float, waited_s: float) -> None:
        """Count a step that has just ended; see Mark."""
        self.steps += 1
        if self.steps >= WARM_UP_STEPS:
            self.marks.append(Mark(now_s, waited_s))

    @property
    def is_known(self) -> bool:
        """Return whether enough steps were measured."""
        return self.steps >= MEASURED_STEPS

    @property
    def step_s(self) -> float:
        """Return the seconds per step."""
        return (self.marks[-1].now_s - self.marks[0].now_s) / (len(self.marks) - 1)

    @property
    def wait_share(self) -> float:
        """Return the share of the time that was spent waiting for data."""
        first, last = self.marks[0], self.marks[-1]
        return (last.waited_s - first.waited_s) / (last.now_s - first.now_s)


class TrainingProgress:
    """Shows the steps of a run.

    Args:
        console: where.
        began_s: when the run began, as of time.monotonic().
        cure: what helps against waiting for data.
    """

    def __init__(self, console: Console, began_s: float, cure: str) -> None:
        self.console, self.began_s, self.cure = console, began_s, cure
        columns = (TextColumn("pretraining"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"))
        times = (TimeElapsedColumn(), TextColumn("{task.fields[left]}"))
        self.on_terminal = console.is_terminal and is_printed("info")
        self.bar = Progress(*columns, *times, console=console, disable=not self.on_terminal)
        self.pace = Pace()
        self.printed_s = self.said_s = -float("inf")

    def start(self, step: int, total_steps: int) -> None:
        """Begin at a step."""
        self.task = self.bar.add_task("", total=total_steps, completed=step, status="", left="")
        self.step, self.total_steps = step, total_steps
        self.bar.start()

    def advance(self, waited_s: float) -> None:
        """Count a step, with the seconds that this process has waited for data so far."""
        now_s = time.monotonic()
        self.step += 1
        self.pace.add(now_s, waited_s)
        self.bar.advance(self.task)
        if self.pace.steps == 1:
            self.first_step_s = now_s - self.began_s
        if self.pace.steps == MEASURED_STEPS and self.step < self.total_steps:
            note(self.describe_whole(), self.console)
        if self.pace.is_known:
            self.bar.update(self.task, left=f"about {self.describe_left()} left")

    def is_measured_now(self) -> bool:
        """Return whether the next step's end is one from which, or up to which, the whole is estimated."""
        return self.pace.steps + 1 in (WARM_UP_STEPS, MEASURED_STEPS)

    def describe_whole(self) -> str:
        """Return how long the first step took to come, and how long the run will take."""
        left_s = self.pace.step_s * (self.total_steps - self.step)
        end = time.strftime("%H:%M" if left_s < 43200 else "%a %d %b %H:%M", time.localtime(time.time() + left_s))
        return (
            f"first step after {describe_seconds(self.first_step_s)}, now {describe_seconds(self.pace.step_s)} per step: about "
            f"{self.describe_left()} for the other {self.total_steps - self.step:,} steps, until {end}"
        )

    def describe_left(self) -> str:
        """Return the time to the last step."""
        return describe_seconds(self.pace.step_s * (self.total_steps - self.step))

    def update(self, row: Mapping[str, float | int], newest: Mapping[str, float | int]) -> None:
        """Show a row of metrics, with the health in the newest value of each, and say what is slow if it is time to."""
        waiting = f"{row['data_wait_share']:.0%} waiting for data"
        status = "  ".join(
            filter(None, [f"loss {row['loss']:.4f}", describe_health(newest), f"{row['samples_per_s']:.0f} samples/s", waiting])
        )
        self.bar.update(self.task, status=status)
        now_s, is_last = time.monotonic(), self.step == self.total_steps
        if not self.on_terminal and (now_s - self.printed_s > PRINT_INTERVAL_S or is_last):
            left = f"  about {self.describe_left()} left" if self.pace.is_known and not is_last else ""
            note(f"step {self.step}/{self.total_steps}  {status}{left}", self.console)
            self.printed_s = now_s
        if self.pace.is_known and self.pace.wait_share > SLOW_SHARE and now_s - self.said_s > REPEAT_S and not is_last:
            note(f"waiting for data {self.pace.wait_share:.0%} of the time: {self.cure}", self.console)
            self.said_s = now_s

    def stop(self) -> None:
        """Leave the bar as it is."""
        self.bar.stop()


def describe_health(newest: Mapping[str, float | int]) -> str:
    """Return in a few words how well the targets are predicted and whether they collapse; empty before the first measurement."""
    measured = (newest.get(f"health/target_{name}") for name in ("rankme", "std_mean", "cosine"))
    verdict = describe_collapse(*measured)
    if verdict is None:
        return ""
    r2 = newest.get("health/predictor_r2")
    return verdict if r2 is None else f"{verdict}, R2 {r2:.2f}"
