"""`jepa selftest faults`: a test that runs survive what happens to runs, on this machine and for any recipe."""

import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import get_args

from rich.console import Console

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.console import print_plain
from jepa_pipeline.results.tables import EMPTY, Cell, Table, print_table
from jepa_pipeline.selftest.chaos import Chaos, Round, run_quietly
from jepa_pipeline.selftest.faults import DATA_FAULTS, FAULTS
from jepa_pipeline.selftest.places import is_local, link_data
from jepa_pipeline.selftest.process import Phase
from jepa_pipeline.selftest.runs import build_small_config, compare_results, shorten

FAULTS_PER_RUN = 8
"""Faults of one run at most: each costs a start, which takes longer than the steps."""
IDLE_RUNS = 3
"""Runs in a row that no fault has met, after which the test ends."""


def faults(
    config: RunConfig | None,
    arguments: Sequence[str] = (),
    *,
    minutes: float = 2.0,
    count: int | None = None,
    only: Sequence[str] = (),
    total_steps: int = 24,
    seed: int = 0,
    out: Path | None = None,
) -> bool:
    """Run a configuration once undisturbed and then with faults at random moments, compare, and print a table of the faults.

    Args:
        config: what to run; default: a small I-JEPA with two workers and accumulation, on synthetic images.
        arguments: the words of the command line that give it, for the command that repeats a run.
        minutes: time after which no other run is started.
        count: number of faults after which none is, instead of the time.
        only: names of faults; default: all that this data can meet.
        total_steps: length of each run, in optimizer steps.
        seed: of the first run; the next ones have the next numbers.
        out: folder of the runs; default: a temporary folder, which is deleted if all faults were survived.

    Returns:
        Whether all faults were survived.

    Raises:
        UserError: the run without faults failed, a fault is not known or cannot meet this data, or runs end before one does.
    """
    if sys.platform != "linux":
        raise UserError("jepa selftest faults needs Linux, by whose /proc it finds the processes of a run: try it there")
    if out and out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not an empty folder: give another one with --out")
    start, folder = time.monotonic(), (out or Path(mkdtemp(prefix="jepa-selftest-"))).resolve()
    try:
        config = config or build_small_config(folder)
        names = choose_faults(config, only)
    except UserError:
        if out is None:
            shutil.rmtree(folder)
        raise

    def plan(rounds: Sequence[Round]) -> int:
        if count is not None:
            return min(FAULTS_PER_RUN, count - count_faults(rounds))
        return FAULTS_PER_RUN if not rounds or minutes_since(start) < minutes else 0

    rounds = disturb(config, folder, names, plan, total_steps=total_steps, seed=seed, arguments=arguments)
    print_table(build_table(rounds, names))
    survived = not any(one.problems for one in rounds)
    print_plain(None, describe(rounds, minutes_since(start), folder))
    if survived and out is None:
        shutil.rmtree(folder)
    return survived


def disturb(
    config: RunConfig,
    folder: Path,
    names: Sequence[str],
    plan: Callable[[Sequence[Round]], int],
    *,
    total_steps: int,
    seed: int = 0,
    arguments: Sequence[str] = (),
    kind: type[Chaos] = Chaos,
) -> list[Round]:
    """Run a configuration undisturbed, then with faults as often as is planned; print each fault and each result.

    Args:
        config: what to run.
        folder: an empty folder for the runs.
        names: the faults.
        plan: returns, after the runs so far, how many faults the next one is to meet; 0: there is none.
        total_steps: length of each run.
        seed: of the first run.
        arguments: the words of the command line that give the configuration.
        kind: class of what runs the configuration with faults.

    Raises:
        UserError: the run without faults failed, or runs end before a fault meets them.
    """
    console, data, rounds, idle = Console(), folder / "links", list[Round](), 0
    config = link_data(shorten(config, folder / "runs", total_steps), data).model_copy(update={"name": "quiet"})
    with console.status("running without faults"):
        rhythm = run_quietly(config)
    chaos = kind(config, data, rhythm, partial(compare_results, config.folder), partial(print_plain, console))
    while planned := plan(rounds):
        number = seed + len(rounds)
        print_plain(console, f"run {len(rounds) + 1} with {planned} faults, seed {number}:")
        with console.status(f"{count_faults(rounds)} faults before this run"):
            rounds.append(chaos.run(deck(names, planned, number), number))
        only = names if len(names) < len(FAULTS) else ()
        print_plain(console, describe_round(rounds[-1], repeat_command(arguments, number, planned, total_steps, only)))
        idle = 0 if rounds[-1].strikes or rounds[-1].problems else idle + 1
        if idle == IDLE_RUNS:
            raise UserError(f"{idle} runs ended before a fault met them: use more than {total_steps} --steps")
    return rounds


def choose_faults(config: RunConfig, only: Sequence[str]) -> list[str]:
    """Return the faults that are to meet a run.

    Raises:
        UserError: one is not known, or needs data on this machine.
    """
    if unknown := [name for name in only if name not in FAULTS]:
        raise UserError(f"--only {unknown[0]} is not a fault: give one of {', '.join(FAULTS)}")
    local = all(map(is_local, config.data.train))
    if not local and (remote := [name for name in only if name in DATA_FAULTS]):
        raise UserError(f"--only {remote[0]} needs shards on this machine, but data.train is at a URL: leave that fault out")
    return [name for name in FAULTS if (not only or name in only) and (local or name not in DATA_FAULTS)]


def deck(names: Sequence[str], count: int, seed: int) -> list[str]:
    """Return `count` faults in a random order; none comes again before all others have come."""
    random = Random(seed)

    def shuffled() -> Iterator[str]:
        while True:
            yield from random.sample(names, len(names))

    return [name for name, _ in zip(shuffled(), range(count), strict=False)]


def minutes_since(start: float) -> float:
    return (time.monotonic() - start) / 60


def count_faults(rounds: Sequence[Round]) -> int:
    return sum(len(one.strikes) for one in rounds)


def repeat_command(arguments: Sequence[str], seed: int, count: int, total_steps: int, only: Sequence[str]) -> str:
    """Return the command that disturbs one run in the same way, at about the same moments."""
    options = ["--seed", f"{seed}", "--faults", f"{count}", "--steps", f"{total_steps}", *(f"--only={name}" for name in only)]
    return shlex.join(["jepa", "selftest", "faults", *arguments, *options])


def describe_round(one: Round, command: str) -> str:
    """Return the result of a run as lines of text."""
    if not one.problems:
        return "  equal, and nothing is left behind"
    return "\n".join([*(f"  NOT survived: {problem}" for problem in one.problems), f"  again: {command}"])


def build_table(rounds: Sequence[Round], names: Sequence[str]) -> Table:
    """Return a row per fault: how often it came, in which phases, how the run ended, and in how many cases all was well."""
    phases = get_args(Phase)
    rows = []
    for name in names:
        met = [(struck, one) for one in rounds for struck in one.strikes if struck.fault == name]
        ends = Counter("continued" if struck.code is None else f"{struck.code}" for struck, _ in met)
        equal = sum(not one.problems for _, one in met)
        rows.append(
            [
                Cell(name),
                Cell(f"{len(met)}"),
                *(Cell(f"{sum(struck.phase == phase for struck, _ in met) or EMPTY}") for phase in phases),
                Cell(", ".join(f"{end} ({times})" for end, times in ends.most_common()) or EMPTY),
                Cell(f"{equal} of {len(met)}"),
            ]
        )
    return Table(["fault", "times", *phases, "exit codes", "in runs that ended equal"], rows)


def describe(rounds: Sequence[Round], minutes: float, folder: Path) -> str:
    """Return the result of all runs as a sentence."""
    bad = sum(bool(one.problems) for one in rounds)
    tested = f"{count_faults(rounds)} faults in {len(rounds)} {'run' if len(rounds) == 1 else 'runs'} and {minutes:.1f} minutes"
    if not bad:
        return f"{tested}: every run ended as the one without faults, and nothing is left behind"
    return f"{tested}: {bad} {'run' if bad == 1 else 'runs'} NOT survived; all are kept in {folder}"
