"""A run that faults strike at random moments, again and again until it is finished, beside one that was left alone."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

from jepa_pipeline.config.data import CacheConfig, DamageConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.files import PARTIAL
from jepa_pipeline.selftest.faults import DATA_FAULTS, MOMENTS, NOTHING, SURVIVED, Rhythm, Strike, judge, strike, wait_for_moment
from jepa_pipeline.selftest.places import damaged, serve, with_sources
from jepa_pipeline.selftest.process import LiveRun, checkpointed_step, last_line, log_path

HANG_S = 300.0
"""Seconds beyond ten times those of the quiet run after which a run that should have ended or moved hangs: stopping may take two
minutes, and so may the end of several processes of which one was killed."""


class Round(NamedTuple):
    """A disturbed run from its first start to its end: the faults that met it, and what is wrong with its result."""

    seed: int
    strikes: list[Strike]
    problems: list[str]


def run_quietly(config: RunConfig) -> Rhythm:
    """Run a configuration to its end, and return how long what took.

    Raises:
        UserError: the run failed.
    """
    first_step, begin, checkpoint_s, checkpoints, writing = 0.0, time.monotonic(), 0.0, 0, False
    with LiveRun(config) as run:
        while run.look():
            now = time.monotonic()
            first_step = first_step or (now - begin if run.begun else 0.0)
            if run.begun and (run.phase() == "checkpoint") != writing:
                writing = not writing
                checkpoints += writing
                checkpoint_s += -now if writing else now
            time.sleep(0.002)
        seconds, left = time.monotonic() - begin, run.leavings()
    if run.process.returncode or left:
        problem = "".join(left) or f"{last_line(config)}"
        raise UserError(
            f"the run without faults failed with exit code {run.process.returncode}: {problem} (full log: {log_path(config)})"
        )
    largest = max(path.stat().st_size for path in config.folder.rglob("*") if path.is_file())
    # a run so short that no checkpoint was seen has taken none of any length
    mean_s = max(0.0, checkpoint_s / checkpoints) if checkpoints and not writing else 0.0
    return Rhythm(first_step, (seconds - first_step) / config.optim.total_steps, mean_s, largest)


def plan_starts(faults: Sequence[str]) -> list[list[str]]:
    """Return the faults of each start of the run: those it survives, then one that ends it, if there is one."""
    starts, pending = list[list[str]](), list[str]()
    for fault in faults:
        if fault == "damaged-shards":  # with which a run does not start
            starts.append([fault])
            continue
        if fault not in DATA_FAULTS or fault not in pending:
            pending.append(fault)
        if fault not in SURVIVED:
            starts.append(pending)
            pending = []
    return [*starts, pending] if pending else starts


class Chaos:
    """Runs a configuration with faults.

    Args:
        config: what to run: a short one, whose local data are links in `data`.
        data: folder of those links.
        rhythm: of the quiet run.
        compare: returns in what a finished run, given by its folder, differs from the quiet one.
        log: called with a sentence for each fault.
    """

    def __init__(
        self, config: RunConfig, data: Path, rhythm: Rhythm, compare: Callable[[Path], list[str]], log: Callable[[str], object]
    ) -> None:
        self.config, self.data, self.rhythm, self.compare, self.log = config, data, rhythm, compare, log
        self.limit_s = HANG_S + 10 * (rhythm.start_s + rhythm.step_s * config.optim.total_steps)

    def run(self, faults: Sequence[str], seed: int) -> Round:
        """Run with faults, then to the end, and compare the result with that of the quiet run."""
        config, random = self.config.model_copy(update={"name": f"seed-{seed}"}), Random(seed)
        outcome, starts = Round(seed, [], []), plan_starts(faults)
        for number, names in enumerate([*starts, []]):
            last = self.start(config, names, len(starts) - number, random, outcome)
            if last.problem:
                return outcome
            if last.code == 0:
                break
        outcome.problems.extend(self.compare(config.folder))
        if partial := sorted(cache_folder(config).rglob(f"*{PARTIAL}")):
            outcome.problems.append(f"{len(partial)} unfinished files are left in the cache, such as {partial[0].name}")
        return outcome

    def start(self, config: RunConfig, names: Sequence[str], starts: int, random: Random, outcome: Round) -> Strike:
        """Start the run, let the faults of this start meet it, and wait for its end; return the last fault.

        Args:
            config: what to run.
            names: the faults; none: the run must come to its end.
            starts: how many starts with faults are left, among which the steps that are left are divided.
            random: chooses what the faults leave open.
            outcome: to which the faults and problems are added.
        """
        total = config.optim.total_steps
        ordered = sorted(names, key=lambda name: name not in DATA_FAULTS)
        moments = [random.choice(MOMENTS) for _ in ordered]
        with self.data_fault(config, names, random) as (config, target), self.new_run(config, moments) as run:
            struck = list[Strike]()
            for name, where in zip(ordered, moments, strict=True):
                if name in DATA_FAULTS:
                    struck.append(Strike(name, target, "imports", run.steps()))
                    continue
                done = min(run.steps(), total - 1)
                steps = (done, min(total - 1, done + 2 * (total - 1 - done) // starts))
                if not wait_for_moment(run, name, where, steps, random, self.rhythm, self.limit_s):
                    break
                struck.append(strike(run, name, random, self.rhythm))
            code, checkpoint = run.wait_for_end(self.limit_s), checkpointed_step(config)
            last = struck.pop() if struck else Strike(NOTHING, "it was to end by itself", run.phase(), run.steps())
            problem = judge(last, code, checkpoint, total)
            problems = [f"{problem}: {last_line(config)} (see {log_path(config)})"] if problem else []
            last = last._replace(code=code, problem="".join(problems) or None)
            problems.extend([] if code is None else run.leavings())
        struck += [last] if last.fault != NOTHING else []
        for one in struck:
            self.log(f"{one}")
        outcome.strikes.extend(struck)
        outcome.problems.extend(f"{last.fault} ({last.target}) in {last.phase} after step {last.step}: {text}" for text in problems)
        return last

    def new_run(self, config: RunConfig, moments: Sequence[str]) -> LiveRun:
        """Return the run, started; `moments` are those of its faults."""
        return LiveRun(config)

    @contextmanager
    def data_fault(self, config: RunConfig, names: Sequence[str], random: Random) -> Iterator[tuple[RunConfig, str]]:
        """Make the data faults of a start; yield the configuration to run, and the fault in words."""
        if "damaged-shards" in names:
            # a skipped sample would change the run, as it should
            places = [source.path for source in config.data.train]
            with damaged(self.data, random) as target:
                yield with_sources(config, places, damage=DamageConfig(policy="stop")), target
        elif "slow-server" in names or (not names and cache_folder(config).exists()):  # the last start must clear the cache up
            with serve(self.data, random.randrange(2**32)) as url:
                new = random.random() < 0.5
                if new:
                    shutil.rmtree(cache_folder(config), ignore_errors=True)
                places = [f"{url}/{number}" for number in range(len(config.data.train))]
                cache = CacheConfig(folder=cache_folder(config))
                yield with_sources(config, places, cache=cache), f"{'a new' if new else 'the same'} cache"
        else:
            yield config, ""


def cache_folder(config: RunConfig) -> Path:
    return config.output / f"{config.name}-cache"
