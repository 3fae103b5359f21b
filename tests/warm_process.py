"""`jepa` commands in processes that begin with torch imported, which takes longer than most commands."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

PRELOADED = ["jepa_pipeline.commands.pretrain", "jepa_pipeline.commands.probe", "jepa_pipeline.cli"]


class WarmJepa:
    """`jepa ARGUMENTS` in a session of its own, with what of subprocess.Popen tests need.

    Args:
        arguments: the words after `jepa`.
        cwd: its folder.
        variables: added to the environment.
        before: code that is run first.
    """

    def __init__(
        self, arguments: Sequence[object], cwd: Path | None = None, variables: Mapping[str, str] | None = None, before: str = ""
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.temporary = TemporaryDirectory(prefix="warm-jepa-")  # goes with this object
        self.printed = Path(self.temporary.name)
        words = [*map(str, arguments)]
        self.process = context.Process(
            target=be_jepa, args=(words, cwd or Path.cwd(), {**os.environ, **(variables or {})}, before, self.printed)
        )
        self.process.start()
        assert self.process.pid
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; return what was printed to stdout and stderr."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.kill()
            raise subprocess.TimeoutExpired("jepa", timeout or 0.0)
        return (self.printed / "stdout").read_text(), (self.printed / "stderr").read_text()


def run_jepa(
    arguments: Sequence[object], cwd: Path | None = None, variables: Mapping[str, str] | None = None, before: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run `jepa ARGUMENTS` to its end; see WarmJepa."""
    jepa = WarmJepa(arguments, cwd, variables, before)
    stdout, stderr = jepa.communicate()
    return subprocess.CompletedProcess([*map(str, arguments)], jepa.returncode or 0, stdout, stderr)


def run_python(code: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run code to its end, in a process in which torch and the package have been imported."""
    return run_jepa([], cwd, before=f"{code}\nraise SystemExit(0)")


def be_jepa(arguments: list[str], cwd: Path, variables: dict[str, str], before: str, printed: Path) -> None:
    import torch

    from jepa_pipeline.cli import main

    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # what a process has that was started as usual
    torch.set_num_threads(1)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    for stream in (sys.stdout, sys.stderr):
        with (printed / ("stdout" if stream is sys.stdout else "stderr")).open("w") as file:
            os.dup2(file.fileno(), stream.fileno())
    sys.argv = ["jepa", *arguments]
    exec(before, {})
    main()
