"""Run `jepa` commands in processes that begin with torch imported, which takes longer than most commands."""

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PRELOADED = ["jepa_pipeline.commands.pretrain", "jepa_pipeline.commands.probe", "jepa_pipeline.cli"]


def run_jepa(arguments: Sequence[str], cwd: Path, variables: Mapping[str, str]) -> tuple[int | None, str]:
    """Run `jepa ARGUMENTS` in a folder; return its exit code and what it printed to stdout and stderr."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    printed = cwd / "printed.txt"
    process = context.Process(target=be_jepa, args=(list(arguments), cwd, dict(variables), printed))
    process.start()
    process.join()
    return process.exitcode, printed.read_text()


def be_jepa(arguments: list[str], cwd: Path, variables: dict[str, str], printed: Path) -> None:
    import torch

    from jepa_pipeline.cli import main

    multiprocessing.set_start_method("fork", force=True)  # what a process has that was started as usual
    torch.set_num_threads(1)
    os.environ.update(variables)
    os.chdir(cwd)
    with printed.open("w") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.argv = ["jepa", *arguments]
    main()
