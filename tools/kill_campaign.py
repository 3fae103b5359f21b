"""Kill runs of eight recipes again and again: python tools/kill_campaign.py FOLDER [--kills 200] [--case TEXT ...].

Each recipe runs once undisturbed, then with SIGKILL at random moments, to one process or all, until it has met its share of kills.
Every disturbed run must end as the undisturbed one, tensor by tensor, and leave no process and no file behind. Exits with 1 if any
does not. `jepa selftest faults --only kill` does the same for one recipe.

A kill in the imports meets a process that was started as usual. For other kills, and at the end, the process is a fork of this one,
which has imported everything: that takes most of the time of a short run.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import typer

from jepa_pipeline.cli import main as jepa
from jepa_pipeline.commands import pretrain  # noqa: F401  # so that forks have imported it
from jepa_pipeline.commands.demo_shards import demo, demo_video
from jepa_pipeline.commands.faults import disturb
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.results.tables import EMPTY, Cell, Table, print_table
from jepa_pipeline.selftest.chaos import Chaos, Round
from jepa_pipeline.selftest.process import LiveRun, Phase

RECIPES = Path(__file__).parents[1] / "configs" / "debug"
SMALL = ["optim.batch_size_global=8", "optim.warmup_samples=16", "trainer.accelerator=cpu", "trainer.threads=1"]
STEPS = 60
KILLS_PER_RUN = 25


class ForkedProcess:
    """A fork of this process as a `jepa` command, with what of subprocess.Popen a LiveRun needs."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], output: int) -> None:
        sys.stdout.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self.be_jepa(command, environment, output)

    def be_jepa(self, command: Sequence[str], environment: dict[str, str], output: int) -> None:
        """Become what a process is that was started as usual, run the command and exit."""
        code = 1
        try:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.closerange(3, 1024)
            os.environ.clear()
            os.environ.update(environment)
            tempfile.tempdir = None
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.argv = ["jepa", *command[3:]]
            jepa()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        finally:
            sys.stdout.flush()
            os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (timeout or 1e9)
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("jepa", timeout or 0.0)
            time.sleep(0.01)
        return code


class WarmRun(LiveRun):
    """A run whose first process is a fork of this one."""

    def start(self, command: list[str], environment: dict[str, str], output: int) -> Any:
        return ForkedProcess(command, environment, output)

    def pids(self) -> list[int]:
        """Return the living processes; a fork shows the environment of this process, but has a session of its own."""
        forks = [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if self.is_fork(int(folder.name))]
        return sorted({*super().pids(), *forks}, key=lambda pid: (pid != self.process.pid, pid))

    def is_fork(self, pid: int) -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            return os.getsid(pid) == self.process.pid and state not in "ZX"
        except (ProcessLookupError, FileNotFoundError):
            return False


class WarmChaos(Chaos):
    """Faults of forked runs, but for those that are to be met in the imports."""

    def new_run(self, config: RunConfig, moments: Sequence[str]) -> LiveRun:
        return LiveRun(config) if "imports" in moments else WarmRun(config)


class Case(NamedTuple):
    """A recipe and how it is run."""

    name: str
    recipe: str
    overrides: Sequence[str]
    faults: Sequence[str] = ("kill",)


CASES = [
    Case("ijepa with accumulation", "ijepa", ["data.workers=2", "optim.accumulate_steps=2"]),
    Case("vjepa", "vjepa", ["data.workers=1"]),
    Case("swav with a queue", "swav", ["method.queue_length=32", "method.frozen_steps=4", "data.workers=1"]),
    Case("byol", "byol", []),
    Case("hjepa", "hjepa", ["data.workers=1"]),
    Case("lejepa", "lejepa", []),
    Case("ijepa on two ranks", "ijepa", ["trainer.devices=2", "trainer.strategy=fsdp2", "data.workers=1"]),
    Case("ijepa over HTTP", "ijepa", ["data.workers=1"], ("kill", "slow-server")),
]


def count_kills(rounds: Sequence[Round]) -> int:
    return sum(struck.fault == "kill" for one in rounds for struck in one.strikes)


def kill(case: Case, folder: Path, data: Path, kills: int) -> list[Round]:
    """Run a case with so many kills."""
    recipe = RECIPES / f"{case.recipe}.yaml"
    train = data / ("videos" if "demo-video" in recipe.read_text() else "images") / "train"
    overrides = [*SMALL, *case.overrides, f"data.train={train}"]
    config = load_config(recipe, overrides)
    each = len(case.faults)  # between two kills every other fault comes once

    def plan(rounds: Sequence[Round]) -> int:
        return each * min(KILLS_PER_RUN, kills - count_kills(rounds))

    return disturb(config, folder, case.faults, plan, total_steps=STEPS, arguments=[str(recipe), *overrides], kind=WarmChaos)


def main(
    folder: Annotated[Path, typer.Argument(help="A new folder for data and runs.")],
    kills: Annotated[int, typer.Option(min=1, help="Kills of all recipes together.")] = 200,
    case: Annotated[list[str] | None, typer.Option(help="Only cases whose name contains this; again for each.")] = None,
) -> None:
    """Kill runs of eight recipes and compare them with undisturbed ones."""
    cases = [one for one in CASES if not case or any(text in one.name for text in case)]
    demo(folder / "data/images", images=100)
    demo_video(folder / "data/videos", videos=80)
    phases, rows, bad, total = get_args(Phase), [], 0, Counter[str]()
    for number, one in enumerate(cases):
        print(f"--- {one.name}", flush=True)
        share = kills // len(cases) + (number < kills % len(cases))
        rounds = kill(one, folder / one.name.replace(" ", "-"), folder / "data", share)
        counts = Counter(struck.phase for round_ in rounds for struck in round_.strikes if struck.fault == "kill")
        unequal = sum(bool(round_.problems) for round_ in rounds)
        total, bad = total + counts, bad + unequal
        equal = f"{len(rounds) - unequal} of {len(rounds)}"
        cells = [one.name, f"{counts.total()}", *(f"{counts[phase] or EMPTY}" for phase in phases), equal]
        rows.append([*map(Cell, cells)])
        print_table(Table(["recipe", "kills", *phases, "runs that ended equal"], rows))
    moments = ", ".join(f"{total[phase]} in {phase}" for phase in phases)
    print(f"{total.total()} kills of {len(cases)} recipes: {moments}; {bad} runs differ or left something behind")
    raise typer.Exit(min(bad, 1))


if __name__ == "__main__":
    typer.run(main)
