"""Processes for several devices of one machine, for a run that neither torchrun nor Slurm started.

torch.distributed.run's elastic launch would do this with fewer lines of ours. But it kills processes 30 s after it passes a signal
on, while a run may take STOP_WITHIN_S to save its last checkpoint; it ends the others as soon as one fails, while the watchdog
needs a while to say which one and why; and it restarts a run that the user has stopped or must correct.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

from jepa_pipeline.config.render import to_yaml
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.trainer import STOP_WITHIN_S
from jepa_pipeline.console import COMMAND
from jepa_pipeline.data.worker_pool import die_with_parent
from jepa_pipeline.redaction import redact
from jepa_pipeline.training.processes import RankInfo, free_port
from jepa_pipeline.training.restarts import COUNT, DELIBERATE, LIMIT, REASON
from jepa_pipeline.training.signals import SECOND_CTRL_C, STOP_SIGNALS, outlive_terminal, write_stderr
from jepa_pipeline.training.watchdog import ABORTED, STACKS, VERDICT

GRACE_S = 30.0
"""Seconds for the report of a watchdog, after which processes that outlive the first one that ended are killed; and then seconds
after which those that even this does not end are left behind."""


class ProcessGroup:
    """The processes that this one has started, which end together.

    Attributes:
        processes: in order of rank.
        stop: the last stop signal that was passed on to them; once one has come, none is started any more.
        failure: what befell the first one that failed, in words, and its exit code, as of subprocess.
    """

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.stop: int | None = None
        self.failure: tuple[str, int] | None = None

    def start(self, commands: list[tuple[list[str], dict[str, str]]], descriptors: tuple[int, ...] = ()) -> None:
        """Start a process for each command and its environment, in order of rank, with some open files of this one."""
        self.processes, self.failure = [], None
        for command, environment in commands:
            if self.stop is not None:
                break
            # in a session of its own, so that Ctrl-C reaches it once, through this process
            process = subprocess.Popen(
                command,
                env=environment,
                start_new_session=True,
                preexec_fn=partial(die_with_parent, os.getpid()),
                pass_fds=descriptors,
            )
            self.processes.append(process)
            if self.stop is not None:  # it came just before the process was in the list
                process.send_signal(self.stop)

    @contextmanager
    def pass_signals_on(self) -> Iterator[None]:
        """Pass stop signals that this process receives on to all others."""

        def pass_on(number: int, _: object) -> None:
            self.stop = number
            for process in self.processes:
                with suppress(ProcessLookupError):
                    process.send_signal(number)

        handlers_before = {number: signal.signal(number, pass_on) for number in STOP_SIGNALS}
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            handlers_before[signal.SIGHUP] = signal.signal(signal.SIGHUP, outlive_terminal)
        try:
            yield
        finally:
            for number, handler in handlers_before.items():
                signal.signal(number, handler)

    def wait(self, silent_s: float, restarted: bool) -> int:
        """Wait until all processes have ended; kill those that are still there a while after the end of the first one.

        The watchdogs of the others need silent_s to find out that it has ended, unless its own has ended it, and so all. After a
        stop signal each has STOP_WITHIN_S.

        Where a signal has ended one, the others are killed at once if they would be restarted, or were asked to stop: without it
        they can save nothing.

        Returns:
            The exit code: 0 if all succeeded, else that of the first rank that ended by itself with another.
        """
        grace_s, deadline = 0.0, float("inf")
        while None in (codes := [process.poll() for process in self.processes]):
            ended = [(rank, code) for rank, code in enumerate(codes) if code is not None]
            self.note_failure(ended)
            if self.failure and is_abrupt(self.failure[1]) and (restarted or self.stop is not None):
                self.kill()
                break
            if deadline == float("inf") and (ended or self.stop is not None):
                told = ABORTED in codes  # by the watchdog
                grace_s = GRACE_S + (0.0 if told else silent_s if ended else STOP_WITHIN_S)
                deadline = time.monotonic() + grace_s
            if time.monotonic() >= deadline:
                alive = ", ".join(str(rank) for rank, code in enumerate(codes) if code is None)
                reason = self.failure[0] if self.failure else "the others have ended" if ended else "a stop signal came"
                write_stderr(f"{reason}, but rank {alive} was still there {grace_s:g} s later and is killed")
                self.kill()
                break
            time.sleep(0.05)
        ended = [(rank, code) for rank, code in enumerate(codes) if code is not None]
        self.note_failure(ended)
        if not self.processes and self.stop is not None:
            return 128 + self.stop
        return exit_code([code for _, code in ended]) or (0 if len(ended) == len(self.processes) else ABORTED)

    def note_failure(self, ended: list[tuple[int, int]]) -> None:
        """Keep the first failure; of several found at the same time that of a signal, of which others are a consequence."""
        failed = [(rank, code) for rank, code in ended if code != 0]
        if failed and self.failure is None:
            rank, code = min(failed, key=lambda one: (not is_abrupt(one[1]), one[0]))
            self.failure = f"rank {rank} {describe_end(code)}", code

    def kill(self) -> None:
        """Kill all processes, and wait until they are gone; a process that hangs in the kernel is left behind."""
        for process in self.processes:
            process.kill()
        deadline = time.monotonic() + GRACE_S
        while any(process.poll() is None for process in self.processes):
            if time.monotonic() > deadline:
                left = ", ".join(str(process.pid) for process in self.processes if process.poll() is None)
                write_stderr(f"the kernel does not end process {left}, perhaps because a file system hangs; it is left behind")
                return
            time.sleep(0.05)


def launch_processes(config: RunConfig, info: RankInfo, objects: tuple[int, dict[str, str]] | None = None) -> int:
    """Start `jepa pretrain` for each device of this machine, pass stop signals on, and wait until all have ended.

    All are started again, from the last checkpoint, when one has died, up to trainer.restarts times.

    objects: a file with what the recipe cannot hold, and the variables by which it is found.

    Returns:
        The exit code: 0 if all succeeded, else that of the first rank that ended by itself with another.
    """
    limit, group, reason = config.trainer.restarts or 0, ProcessGroup(), ""
    with memory_file(to_yaml(config)) as recipe, group.pass_signals_on():
        count = 0
        while True:
            descriptor, environment = objects or (None, {})
            variables = {COUNT: str(count), LIMIT: str(limit), REASON: reason, **environment}
            start_processes(group, (recipe,) if descriptor is None else (recipe, descriptor), info, variables)
            code = group.wait(config.trainer.silent_s, restarted=count < limit)
            if count == limit or group.stop is not None or group.failure is None or group.failure[1] in DELIBERATE:
                return code
            reason = group.failure[0]
            verdict = config.folder / STACKS / VERDICT
            if group.failure[1] == ABORTED and verdict.exists():
                reason = verdict.read_text().strip() or reason
            count += 1
            write_stderr(f"{reason}: restart {count} of {limit}")


@contextmanager
def memory_file(text: str) -> Iterator[int]:
    """Yield the descriptor of a file that is nowhere on a disk: a killed process leaves none behind, nor the secrets in it."""
    descriptor = os.memfd_create("recipe")
    try:
        with open(descriptor, "wb", closefd=False) as file:  # os.write may write only a part, as at a limit on the size of files
            file.write(text.encode())
        yield descriptor
    finally:
        os.close(descriptor)


def start_processes(group: ProcessGroup, files: tuple[int, ...], info: RankInfo, variables: dict[str, str]) -> None:
    """Start a process for each device, with the variables of torchrun and others, and open files: first the recipe."""
    threads = str(max(1, len(os.sched_getaffinity(0)) // info.local_world_size))
    environment = {
        **os.environ,
        COMMAND: json.dumps(list(map(redact, sys.argv))),
        "MASTER_ADDR": info.master_addr,
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(info.world_size),
        "LOCAL_WORLD_SIZE": str(info.world_size),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
        **variables,
    }
    command = [sys.executable, "-m", "jepa_pipeline", "pretrain", f"/proc/self/fd/{files[0]}"]
    ranks = map(str, range(info.world_size))
    group.start([(command, {**environment, "RANK": rank, "LOCAL_RANK": rank}) for rank in ranks], files)


def is_abrupt(code: int) -> bool:
    """Return whether a signal ended a process, or a second Ctrl-C, so that it has saved and told nothing."""
    return code < 0 or code == SECOND_CTRL_C


def describe_end(code: int) -> str:
    """Return how a process ended, by its exit code as of subprocess."""
    if code >= 0:
        return f"ended with exit code {code}"
    what = next((number.name for number in signal.Signals if number == -code), f"signal {-code}")
    return f"was killed by {what}" + (", perhaps by the system for lack of memory" if what == "SIGKILL" else "")


def exit_code(codes: list[int]) -> int:
    """Return the first error's exit code; a negative one is a signal's, for which a shell would say 128 + its number."""
    return next((code for code in codes if code > 0), next((128 - code for code in codes if code < 0), 0))
