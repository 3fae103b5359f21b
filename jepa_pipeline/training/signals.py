"""Leaving in order. A signal only sets a flag; the run ends at the next step boundary, with a checkpoint."""

import faulthandler
import os
import signal
import threading
import time
from types import FrameType

from jepa_pipeline.distributed import rank

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Ctrl-C, what Slurm and the system send before they kill, and two that Slurm can be asked to send ahead of a time limit."""

SECOND_CTRL_C = 130
FORCED = 70
"""Exit codes of the two ways to leave out of order."""


ONE_PRESS_S = 0.2
"""Two Ctrl-C in so short a time are one, that came on two ways: from Slurm, and from the process that started this one."""
PATIENCE_S = 2.0
"""How long a run that was asked to stop may wait for the data of its next step."""


class Stop(BaseException):
    """Raised by a signal where the run waits between two steps, so that it need not wait for the next."""


class StopSignals:
    """Listens for a request to stop while it is entered. Should leaving take longer than leave_within_s, the process is ended."""

    def __init__(self, leave_within_s: float) -> None:
        self.leave_within_s = leave_within_s
        self.asked: signal.Signals | None = None
        self.idle = False
        """Whether the run is between two steps and everything up to now could be saved."""
        self.timers: list[threading.Timer] = []
        self.owner, self.thread = os.getpid(), threading.get_ident()

    def __enter__(self) -> "StopSignals":
        self.before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        self.listen()
        return self

    def listen(self) -> None:
        """Take the signals over, again from Lightning; only the main thread can, elsewhere nothing changes."""
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                signal.signal(number, self.hear)

    def __exit__(self, *_: object) -> None:
        """Stop the clocks, for one of them sends a signal, and give the signals back as they were."""
        for timer in self.timers:
            timer.cancel()
        if threading.current_thread() is threading.main_thread():
            for number, handler in self.before.items():
                signal.signal(number, handler)

    def hear(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self.owner:
            return  # a forked child before it has set its own handlers
        if self.asked is None:
            self.asked, self.heard_s = signal.Signals(number), time.monotonic()
            self.timers = [threading.Timer(PATIENCE_S, self.remind), threading.Timer(self.leave_within_s, self.force)]
            for timer in self.timers:
                timer.daemon = True
                timer.start()
            if rank() == 0:
                say(f"{self.asked.name}: stopping after this step with a checkpoint; Ctrl-C again stops at once")
        elif number == signal.SIGINT:
            if time.monotonic() - self.heard_s > ONE_PRESS_S:
                end(SECOND_CTRL_C, "stopped at once")
        elif self.idle:
            raise Stop

    def remind(self) -> None:
        """Wake the main thread, should it be waiting for data that does not come."""
        signal.pthread_kill(self.thread, signal.SIGUSR1)

    def force(self) -> None:
        say(f"leaving took longer than checkpoint.leave_within_s, {self.leave_within_s:g} s. Where every thread is:")
        faulthandler.dump_traceback()
        end(FORCED, "ended by force; the last checkpoint is whole")


def end(code: int, text: str) -> None:
    """Leave at once. The decoding processes end with their parent."""
    if rank() == 0 or code != SECOND_CTRL_C:
        say(text)
    os._exit(code)


def say(text: str) -> None:
    """Straight to stderr: a handler may have interrupted whoever was printing. The escape sequence shows the cursor again."""
    os.write(2, f"\n{text}\n".encode() + (b"\x1b[?25h" if os.isatty(2) else b""))
