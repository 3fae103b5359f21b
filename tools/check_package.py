"""Build the sdist and the wheel, check them, and use the wheel outside the clone, in an environment of its own.

    python tools/check_package.py
    python tools/check_package.py --python /path/to/venv/bin/python

Without --python the environment is new, with the versions of constraints.txt: a few gigabytes with CUDA. With it, only the
package itself is new: it is installed into a folder that comes first on the path of that Python, which has the dependencies.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).parents[1]
DATA = "data/demo"
COMMANDS = [
    ["--version"],
    ["config", "list"],
    ["config", "show", "debug/simclr", "--json"],
    ["config", "copy", "debug/simclr", "mine.yaml"],
    ["config", "check", "mine.yaml"],
    ["shards", "demo", DATA, "--images", "200"],
    ["pretrain", "debug/ijepa", "optim={total_samples: 64, warmup_samples: 32}"],
    ["probe", "runs/debug_ijepa", "iterations=2"],
    ["benchmark", "demo", "runs/debug_ijepa", "--collect"],
    ["submit", "pretrain", "debug/ijepa", "name=other", "--dry-run", "--site", "generic", "--set", "nodes=1"],
]
"""Commands that need the files in the wheel, in an empty folder."""
MAY_FAIL = "benchmark"
"""The command whose exit code says that results are missing, as they are here."""


def run(command: list[str], folder: Path, variables: Mapping[str, str] | None = None) -> str:
    """Run a command that must succeed; return what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {**(variables or {})}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if result.returncode and MAY_FAIL not in command:
        sys.exit(f"{' '.join(command)} failed in {folder}:\n{result.stdout}{result.stderr}")
    return result.stdout


def copy_sources(folder: Path) -> None:
    """Copy what git knows or would add, because a build leaves files in its folder."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in filter(None, run(listed, ROOT).split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def build(work: Path) -> Path:
    """Build the sdist, from it the wheel, and check both; return the wheel."""
    copy_sources(work / "sources")
    run([sys.executable, "-m", "venv", "builder"], work)
    python = str(work / "builder/bin/python")
    run([python, "-m", "pip", "install", "-q", "build", "twine"], work)
    run([python, "-m", "build", "--outdir", str(work / "dist"), str(work / "sources")], work)
    files = sorted((work / "dist").iterdir())
    print(run([python, "-m", "twine", "check", "--strict", *map(str, files)], work))
    return next(path for path in files if path.suffix == ".whl")


def install(wheel: Path, work: Path, python: Path | None) -> tuple[Path, dict[str, str]]:
    """Install the wheel; return the Python that has it, and the variables that it needs."""
    if python is not None:
        target = work / "installed"
        run([str(python), "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel)], work)
        return python, {"PYTHONPATH": str(target)}
    run([sys.executable, "-m", "venv", "environment"], work)
    own = work / "environment/bin/python"
    run([str(own), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), str(wheel)], work)
    return own, {}


def main(
    python: Annotated[Path | None, typer.Option(help="A Python with the dependencies; default: a new environment.")] = None,
    quickstart: Annotated[bool, typer.Option("--quickstart", help="Also run `jepa quickstart`, in minutes.")] = False,
) -> None:
    """Build, check, install and use the package."""
    with tempfile.TemporaryDirectory(prefix="check-package-") as name:
        work = Path(name)
        owner, variables = install(build(work), work, python and python.absolute())
        empty = work / "empty"
        empty.mkdir()
        for arguments in [*COMMANDS, *([["quickstart"]] if quickstart else [])]:
            lines = run([str(owner), "-m", "jepa_pipeline", *arguments], empty, variables).splitlines()
            print(f"jepa {' '.join(arguments)}: {len(lines)} lines, the last: {lines[-1] if lines else ''}")


if __name__ == "__main__":
    typer.run(main)
