"""Stop signals. The first only sets a flag: the run ends at the next step with a checkpoint."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from jepa_pipeline.config.errors import Interrupted
from jepa_pipeline.config.trainer import STOP_WITHIN_S
from jepa_pipeline.distributed import rank, world_size
from jepa_pipeline.redaction import redact
from jepa_pipeline.training.stacks import StacksFile

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Ctrl-C, what Slurm and the system send before they kill, and two that Slurm can be asked to send before a time limit."""

STACKS_WITHIN_S = 10.0
"""Seconds that writing the stacks may take."""
NOTHING_SAVED = "nothing is saved yet"
"""Start of what the same command will do if there is no checkpoint."""
SECOND_CTRL_C, FORCED = 130, 70
"""Exit codes after a second Ctrl-C and of a process that did not stop in time."""
SAME_CTRL_C_S = 0.2
"""Two SIGINT within these seconds are one Ctrl-C that came both from Slurm and from the process that started this one."""
LEAVE_WITHIN_S = 3.0
"""Seconds after which Ctrl-C ends a run that has little to lose, even in the middle of a long computation."""
LITTLE_TO_LOSE_S = 60.0
"""Seconds of training since the start, or the last checkpoint, that are not worth waiting for a step to end."""
DATA_WAIT_S = 2.0
"""Seconds for which a run that was asked to stop may wait for the data of its next step."""


class StopRequested(BaseException):
    """Raised by a signal handler in a run that waits between two steps, or has not taken its first one."""


class InterruptedAlone(Interrupted):
    """Interrupted in one of several processes, at another place than the others, which have to be told."""


class StopSignals:
    """Receives requests to stop while it is entered, and ends the process if stopping takes longer than STOP_WITHIN_S.

    Args:
        describe_restart: returns what the same command will do after the process was ended.
        stacks: file for the stacks of all threads, where stopping takes too long.
        tell_others: ends all other processes of the run, with an error's text and exit code; returns whether this was the first.

    Attributes:
        received: the first stop signal.
        between_steps: whether the run waits for data between two steps, where everything up to now can be saved.
        before_first_step: whether there is nothing to save, since this process has not ended a step.
        saving: whether a checkpoint is being written.
        unsaved_since_s: the time of the first step that no checkpoint has, as of time.monotonic().
    """

    def __init__(
        self,
        describe_restart: Callable[[], str],
        stacks: StacksFile,
        tell_others: Callable[[str, int], bool] = lambda text, code: True,
    ) -> None:
        self.describe_restart, self.stacks, self.tell_others = describe_restart, stacks, tell_others
        self.saving, self.unsaved_since_s = False, float("inf")
        self.received: signal.Signals | None = None
        self.between_steps = False
        self.before_first_step = True
        self.timers: list[threading.Timer] = []
        self.pid, self.thread = os.getpid(), threading.get_ident()

    def __enter__(self) -> "StopSignals":
        self.handlers_before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        self.install_handlers()
        return self

    def install_handlers(self) -> None:
        """Handle the signals here. Outside the main thread, where Python allows no handlers, nothing changes."""
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                signal.signal(number, self.handle)
            if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup has it ignored already
                signal.signal(signal.SIGHUP, outlive_terminal)

    def __exit__(self, *_: object) -> None:
        """Cancel the timers, one of which sends a signal, and restore the handlers."""
        for timer in self.timers:
            timer.cancel()
        if threading.current_thread() is threading.main_thread():
            for number, handler in self.handlers_before.items():
                signal.signal(number, handler)
            if signal.getsignal(signal.SIGHUP) is outlive_terminal:
                signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def handle(self, number: int, _: FrameType | None) -> None:
        """Handle a signal."""
        if os.getpid() != self.pid:
            return  # a forked data worker that has not set its own handlers yet
        if self.received is None:
            self.received, self.received_time = signal.Signals(number), time.monotonic()
            self.timers = [
                threading.Timer(DATA_WAIT_S, self.signal_main_thread),
                threading.Timer(STOP_WITHIN_S, self.force_exit),
            ]
            if number == signal.SIGINT:  # other signals may mean that the job is to be requeued, which takes longer
                self.timers.append(threading.Timer(LEAVE_WITHIN_S, self.exit_if_little_is_lost))
            for timer in self.timers:
                timer.daemon = True
                timer.start()
            if self.may_leave():
                if rank() == 0:
                    write_stderr(f"{self.received.name}: stopping before the first step; {self.describe_restart()}")
                raise StopRequested
            if rank() == 0:
                write_stderr(f"{self.received.name}: {self.describe_stop()}; Ctrl-C again stops at once")
        elif number == signal.SIGINT:
            if time.monotonic() - self.received_time > SAME_CTRL_C_S:
                if rank() == 0:
                    write_stderr(f"stopped at once; {self.describe_restart()}")
                os._exit(SECOND_CTRL_C)  # data workers end with their parent
        elif self.between_steps or self.may_leave():
            raise StopRequested

    def may_leave(self) -> bool:
        """Return whether to leave at once: there is nothing to save, and of several processes none has a job to requeue."""
        return self.before_first_step and (world_size() == 1 or self.received == signal.SIGINT)

    def describe_stop(self) -> str:
        """Return what a stop signal leads to."""
        text = "stopping after this step with a checkpoint"
        restart = self.describe_restart()
        return f"{restart.partition(',')[0]}: {text}" if restart.startswith(NOTHING_SAVED) else text

    @contextmanager
    def end_before_first_step(self) -> Iterator[None]:
        """Raise Interrupted where a signal has interrupted the preparation of a run."""
        try:
            yield
        except StopRequested:
            self.before_first_step = False
            raise interruption(self.received, 0, self.describe_restart(), alone=True) from None

    def signal_main_thread(self) -> None:
        """Interrupt the main thread if it waits for data that does not come: only a handler can raise there."""
        signal.pthread_kill(self.thread, signal.SIGUSR1)

    def exit_if_little_is_lost(self) -> None:
        """End the process if its main thread is still in a step, and what it would save is not worth waiting for."""
        little = self.before_first_step or time.monotonic() - self.unsaved_since_s < LITTLE_TO_LOSE_S
        if little and not self.saving and self.received is not None:
            where = "cleanly before the first step" if self.before_first_step else "within a step"
            text = f"{self.received.name}: stopped {where}; {self.describe_restart()}"
            if self.tell_others(text, Interrupted.exit_code):
                write_stderr(text)
            os._exit(Interrupted.exit_code)

    def force_exit(self) -> None:
        """End the process, and write where all its threads were."""
        threading.Timer(STACKS_WITHIN_S, os._exit, [FORCED]).start()  # the disk may be what hangs
        text = f"stopping took longer than {STOP_WITHIN_S:g} s: ended by force; {self.describe_restart()}"
        if self.stacks.write(f"{text}\n\n"):
            text += f". Where every thread was: {self.stacks.path}"
        write_stderr(text)
        os._exit(FORCED)


def outlive_terminal(*_: object) -> None:
    """Continue a run whose terminal was closed, such as a connection that broke: it needs none."""
    if rank() == 0:
        write_stderr(
            f"SIGHUP: the terminal is gone, and the run continues without it; kill {os.getpid()} stops it with a checkpoint"
        )


def interruption(received: signal.Signals | None, step: int, restart: str, alone: bool = False) -> Interrupted:
    """Return the exception that ends a stopped run.

    Args:
        received: the signal that one of its processes received.
        step: the step that was saved; 0: none.
        restart: what the same command will do.
        alone: whether the processes have not agreed to stop here.
    """
    where = f"after step {step} and saved a checkpoint" if step else "before the first step"
    text = f"{received.name if received else 'stop'}: stopped cleanly {where}; {restart}"
    return InterruptedAlone(text) if alone and world_size() > 1 else Interrupted(text)


def write_stderr(text: str) -> None:
    """Write to stderr's descriptor: a signal handler may have interrupted a print. The escape sequence shows the cursor again."""
    with suppress(OSError):  # nobody reads it
        os.write(2, f"\n{redact(text)}\n".encode(errors="replace") + (b"\x1b[?25h" if os.isatty(2) else b""))
