"""Check that a change left every number as it was: python tools/compare_hashes.py REVISION [--case TEXT ...] [--keep FOLDER].

Each debug recipe trains a few steps from a checkout of REVISION and from this working tree: on one process, with gradient
accumulation and on two processes (ddp and fsdp2), in fp32 and bf16. Every run writes hashes.jsonl, the SHA-256 of every batch,
weight, buffer and optimizer tensor after every step; the two files must be equal. Exits with 1 if any differs.

The runs of REVISION are kept in FOLDER and used again by the next comparison with the same revision.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.progress import track

ROOT = Path(__file__).parents[1]
STEPS, SAMPLES_PER_STEP = 4, 16
PROCESSES = {
    "one": [],
    "accumulate": ["optim.accumulate_steps=2"],
    "ddp": ["trainer.devices=2", "trainer.strategy=ddp"],
    "fsdp2": ["trainer.devices=2", "trainer.strategy=fsdp2"],
}
RUN = [
    f"optim.batch_size_global={SAMPLES_PER_STEP}",
    f"optim.total_samples={STEPS * SAMPLES_PER_STEP}",
    f"optim.warmup_samples={SAMPLES_PER_STEP}",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    "log.hashes_every_steps=1",
]


RENAMED = {"uncut": "deferred_crops"}
"""Fields of a batch that have another name in older revisions, old -> new."""


class Case(NamedTuple):
    """A recipe, how many processes train it, and in which precision."""

    recipe: str
    processes: str
    precision: str

    def __str__(self) -> str:
        return f"{self.recipe}-{self.processes}-{self.precision}"


def all_cases() -> Iterator[Case]:
    recipes = sorted(path.stem for path in (ROOT / "configs/debug").glob("*.yaml"))
    yield from (Case(*choice) for choice in product(recipes, PROCESSES, ("fp32", "bf16")))


def run(checkout: Path, *command: str) -> None:
    """Run a `jepa` command with the package of a checkout; a failure ends the comparison with what the command printed."""
    done = subprocess.run(
        [sys.executable, "-m", "jepa_pipeline", *command],
        cwd=checkout,
        env={"PYTHONPATH": str(checkout), "PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{checkout}: jepa {' '.join(command)}\n{done.stdout}{done.stderr}")


def make_data(checkout: Path, folder: Path) -> None:
    """Make the synthetic images and videos that the debug recipes train on."""
    for command, name in (("demo", "images"), ("demo-video", "videos")):
        if not (folder / name).exists():
            run(checkout, "shards", command, str(folder / name))


def train(checkout: Path, folder: Path, case: Case) -> Path:
    """Train a case unless that was done before; return its hashes.jsonl."""
    hashes = folder / "runs" / str(case) / "hashes.jsonl"
    if not hashes.exists() or len(hashes.read_text().splitlines()) < STEPS:
        recipe = checkout / "configs/debug" / f"{case.recipe}.yaml"
        data = folder / ("videos" if "demo-video" in recipe.read_text() else "images") / "train"
        places = [f"name={case}", f"output={folder / 'runs'}", f"data.train={data}", f"trainer.precision={case.precision}"]
        run(checkout, "pretrain", str(recipe), *RUN, *PROCESSES[case.processes], *places)
    return hashes


def differences(before: Path, after: Path) -> list[str]:
    """Return a line for each step and tensor whose hash is not the same, or that only one of the runs has."""
    old, new = ([rename_fields(json.loads(line)) for line in path.read_text().splitlines()] for path in (before, after))
    if len(old) != len(new):
        return [f"{len(old)} steps before, {len(new)} after"]
    return [
        f"step {one['step']}: {name}"
        for one, other in zip(old, new, strict=True)
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name)
    ]


def rename_fields(row: dict[str, str]) -> dict[str, str]:
    """Return the hashes of a step under the current names of a batch's fields."""
    return {".".join(RENAMED.get(part, part) for part in name.split(".")): value for name, value in row.items()}


def main(
    revision: Annotated[str, typer.Argument(help="The commit to compare with.")],
    case: Annotated[list[str] | None, typer.Option(help="Only cases whose name contains this; again for each.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder in which the runs of REVISION are kept.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 2,
) -> None:
    """Compare every tensor of short runs of REVISION with those of this working tree."""
    cases = [one for one in all_cases() if not case or any(text in str(one) for text in case)]
    commit = subprocess.check_output(["git", "rev-parse", "--short", revision], cwd=ROOT, text=True).strip()
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(jobs) as pool:
        checkout, old, new = Path(temporary, "checkout"), (keep or Path(temporary)).resolve() / commit, Path(temporary, "new")
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(checkout), commit], cwd=ROOT, check=True)
        try:
            for tree, folder in ((checkout, old), (ROOT, new)):
                make_data(tree, folder)
            pairs = pool.map(lambda one: (train(checkout, old, one), train(ROOT, new, one)), cases)
            found = [differences(*pair) for pair in track(pairs, "comparing", total=len(cases))]
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(checkout)], cwd=ROOT, check=True)
    for one, lines in zip(cases, found, strict=True):
        print(f"{one}: {'equal' if not lines else f'{len(lines)} differ, first {lines[0]}'}")
    different = sum(map(bool, found))
    print(f"{len(cases) - different} of {len(cases)} cases equal, working tree beside {commit}")
    raise typer.Exit(min(different, 1))


if __name__ == "__main__":
    typer.run(main)
