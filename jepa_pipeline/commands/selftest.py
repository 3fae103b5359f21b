"""`jepa selftest resume`: a test that a run that is killed and resumed equals one that was never killed."""

import shutil
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import NamedTuple

from rich.console import Console

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.console import print_plain
from jepa_pipeline.files import read_json_lines
from jepa_pipeline.selftest.process import LiveRun, checkpointed_step, count_steps, last_line, log_path
from jepa_pipeline.selftest.runs import CHECKPOINT_STEPS, Difference, build_small_config, find_difference, shorten
from jepa_pipeline.training.loggers import HASHES

TRIES = 5
"""Times the second run is started over because it ended before it could be killed: small steps take milliseconds."""


class Kill(NamedTuple):
    """Steps that a run had taken when it was killed, and the step of the checkpoint it resumes from (0: none)."""

    step: int
    checkpoint: int


def resume(
    config: RunConfig | None = None, *, total_steps: int = 12, kills: int = 1, seed: int = 0, out: Path | None = None
) -> bool:
    """Run a configuration twice, the second time with SIGKILL at random moments, and compare all state of every step.

    Args:
        config: what to run; default: a small I-JEPA with two workers and accumulation, on synthetic images.
        total_steps: length of the runs, in optimizer steps.
        kills: times the second run is killed and resumed.
        seed: seed of the random moments.
        out: folder of the two runs; default: a temporary folder, which is deleted if they are equal.

    Returns:
        Whether every hash and every logged number is equal.

    Raises:
        UserError: a run failed for another reason, or always ended before it could be killed.
    """
    console, folder = Console(), out or Path(mkdtemp(prefix="jepa-selftest-"))
    config = shorten(config or build_small_config(folder), folder, total_steps)
    straight, killed = (config.model_copy(update={"name": name}) for name in ("straight", "killed"))
    if straight.folder.exists() or killed.folder.exists():
        raise UserError(f"{folder} already holds runs of a selftest: give another folder with --out")
    with console.status("running without a kill"):
        run_to_end(straight)
    step_s = read_json_lines(straight.folder / "metrics.jsonl")[-1]["seconds"] / total_steps
    random, done = Random(seed), list[Kill]()
    with console.status("running with kills") as status:
        for _ in range(TRIES):
            for kill in kill_repeatedly(killed, random, kills, step_s):
                done.append(kill)
                status.update(f"running with kills: {len(done)} of {kills}")
            if any(0 < kill.checkpoint < total_steps for kill in done):
                break
            done = []
            shutil.rmtree(killed.folder)  # no kill came between the first checkpoint and the end, which would test nothing
        else:
            raise UserError(
                f"the run ended before it could be killed in {TRIES} tries, so nothing was tested: use more than "
                f"{total_steps} --steps"
            )
        run_to_end(killed)
    difference = find_difference(straight.folder, killed.folder)
    print_plain(console, describe(straight, done, difference, folder))
    if difference is None and out is None:
        shutil.rmtree(folder)
    return difference is None


def run_to_end(config: RunConfig) -> None:
    with LiveRun(config) as run:
        check_exit(run)


def check_exit(run: LiveRun) -> None:
    """Wait for a run to end, and raise UserError if it failed."""
    if code := run.wait_for_end(None):
        config = run.config
        raise UserError(f"the run {config.name} failed with exit code {code}: {last_line(config)} (full log: {log_path(config)})")


def kill_repeatedly(config: RunConfig, random: Random, kills: int, step_s: float) -> Iterator[Kill]:
    """Start a run and kill it, several times, each time further on and the last time not before its first checkpoint.

    step_s: seconds per step, within which the moment of a kill is random.
    """
    for number in range(kills):
        with LiveRun(config) as run:
            done, is_last = count_steps(config), number == kills - 1
            left = config.optim.total_steps - 1 - done
            low = max(done, CHECKPOINT_STEPS + 1) if is_last else done
            # twice the mean distance that leaves room for the kills to come
            high = max(low, done + min(left, 2 * left // (kills - number)))
            step = random.randint(low, high)
            run.wait(lambda step=step: run.steps() >= step, limit_s=inf)
            time.sleep(random.uniform(0, step_s))
            if run.process.poll() is not None:
                check_exit(run)
                return
        yield Kill(count_steps(config), checkpointed_step(config))


def describe(config: RunConfig, kills: list[Kill], difference: Difference | None, folder: Path) -> str:
    """Return the kills and the result as lines of text."""
    rows = read_json_lines(config.folder / HASHES)
    lines = [f"  killed after step {kill.step}, resumed from {kill.checkpoint}" for kill in kills]
    lines.append(f"{len(rows)} steps of {len(rows[-1]) - 1} hashes, and every logged number")
    if difference is None:
        lines.append("equal: the killed run is the run that was never killed")
    else:
        lines += [f"NOT equal, first at {difference}", f"both runs are kept in {folder}"]
    return "\n".join(lines)
