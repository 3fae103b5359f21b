"""Kill runs of eight recipes again and again: python tools/kill_campaign.py FOLDER [--kills 200] [--case TEXT ...].

Each recipe runs once undisturbed, then with SIGKILL at random moments, to one process or all, until it has met its share of kills.
Every disturbed run must end as the undisturbed one, tensor by tensor, and leave no process and no file behind. Exits with 1 if any
does not. `jepa selftest faults --only kill` does the same for one recipe.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, get_args

import typer

from jepa_pipeline.commands.demo_shards import demo, demo_video
from jepa_pipeline.commands.faults import disturb
from jepa_pipeline.config.load import load_config
from jepa_pipeline.results.tables import EMPTY, Cell, Table, print_table
from jepa_pipeline.selftest.chaos import Round
from jepa_pipeline.selftest.process import Phase

RECIPES = Path(__file__).parents[1] / "configs" / "debug"
SMALL = ["optim.batch_size_global=8", "optim.warmup_samples=16", "trainer.accelerator=cpu", "trainer.threads=1"]
STEPS = 60
KILLS_PER_RUN = 13


class Case(NamedTuple):
    """A recipe and how it is run."""

    name: str
    recipe: str
    overrides: Sequence[str]
    faults: Sequence[str] = ("kill",)


CASES = [
    Case("ijepa", "ijepa", ["data.workers=2", "optim.accumulate_steps=2"]),
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

    return disturb(config, folder, case.faults, plan, total_steps=STEPS, arguments=[str(recipe), *overrides])


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
