"""A watchdog over all processes of a run: it names the one that is dead or stuck, and ends the job, which would idle otherwise.

torch's own cannot: NCCL's aborts GPU processes without naming the lost one, gloo has none, and torchrun's agents watch their own
machine alone. None of them saves where every thread was, or requeues the job.
"""

import faulthandler
import json
import os
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import IO, NamedTuple

from jepa_pipeline.distributed import Store
from jepa_pipeline.redaction import redact
from jepa_pipeline.training.heartbeat import GONE, HASHING, Heartbeat, HeartbeatTable
from jepa_pipeline.training.signals import write_stderr
from jepa_pipeline.training.stacks import StacksFile, remove_empty_files

ABORTED = 71
"""Exit code of every process of a run that the watchdog ended."""
VERDICT, STACKS = "verdict", "stacks"
"""Key of the store, and file, of the verdict; folder in the run's for that file and the stacks of every process."""
ON_ABORT_S, SHUTDOWN_S, EXIT_S = 90.0, 10.0, 150.0
"""Seconds that on_abort may take; that rank 0 waits for the others to leave after an error; and until a process that leaves is
ended, whatever it waits for."""


class Verdict(NamedTuple):
    """Why all processes of a run end.

    Attributes:
        text: the sentence.
        code: exit code of all processes.
        rank: of the process that decided it.
        is_error: whether that process raises the error itself, so that the others end without a word.
    """

    text: str
    code: int
    rank: int
    is_error: bool


class Watchdog:
    """Monitors all processes while it is entered, in two threads: only one talks to the store, where it may hang.

    Args:
        store: a client of its own, with a prefix that no earlier start of the run has used; None in a single process.
        rank: of this process.
        hosts: the machine of each process, in order of rank.
        folder: of the run, shared by all; `stacks` is the file in it for those of this process.
        silent_s: seconds without a heartbeat after which a process is dead.
        stuck_s: seconds without a step on any process after which the run is aborted; None: never.
        on_abort: called with the verdict by one living process, in a thread, such as to requeue the job.
    """

    def __init__(
        self,
        store: Store | None,
        rank: int,
        hosts: list[str],
        folder: Path,
        silent_s: float,
        stuck_s: float | None,
        on_abort: Callable[[str], object],
    ) -> None:
        self.store, self.rank, self.size, self.folder, self.on_abort = store, rank, len(hosts), folder / STACKS, on_abort
        self.stacks = StacksFile(self.folder / f"rank-{rank:04d}.txt")
        self.silent_s, self.period = silent_s, min(2.0, silent_s / 5)
        self.table = HeartbeatTable(rank, hosts, silent_s, stuck_s)
        # If a thread holds Python's lock for so long, monitor() cannot run: only faulthandler's thread, in C, can show the stacks.
        self.locked_out_s = stuck_s if store is None else 0.75 * silent_s
        self.began_s = time.monotonic()
        self.stage = ("start", 0, self.began_s)
        self.describe_reading: Callable[[], str] = str  # a loader's
        self.heartbeats: dict[int, Heartbeat] = {}
        self.count, self.leaving = 0, False
        self.verdict: Verdict | None = None
        self.proposed: Verdict | None = None
        self.closing, self.last_exchange, self.wake, self.answered = (threading.Event() for _ in range(4))
        self.threads = [threading.Thread(target=self.monitor, name="watchdog", daemon=True)]
        if store is not None:
            store.set_timeout(timedelta(seconds=silent_s))
            self.threads.append(threading.Thread(target=self.exchange_heartbeats, name="watchdog-store", daemon=True))

    def __enter__(self) -> "Watchdog":
        if self.rank == 0:
            (self.folder / VERDICT).unlink(missing_ok=True)
            remove_empty_files(self.folder)  # before any process of this start opens its own
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave. Rank 0, whose process usually holds the store, waits for the others; after an error only briefly."""
        self.closing.set()
        self.threads[0].join()
        self.shut_down(self.silent_s if kind is None else SHUTDOWN_S)

    def set_stage(self, stage: str, step: int) -> None:
        """Set what the training thread does from now on: "start", "data", "step", "checkpoint" or "end", and the step."""
        self.stage = (stage, step, time.monotonic())

    def report_error(self, text: str, code: int) -> bool:
        """Leave because of an error. The others end too, without a word and with the same exit code.

        Returns:
            Whether this error was the first; that of any other process is mostly a consequence.
        """
        self.closing.set()
        self.threads[0].join()  # does not return if that thread is just ending this process
        mine = Verdict(text, code, self.rank, is_error=True)
        first = self.propose(mine) == mine
        self.shut_down(SHUTDOWN_S)
        return first

    def wait_for_verdict(self, only_there: bool = False) -> None:
        """Wait, after a collective lost a process, for the verdict that names it and ends this process.

        Returns after twice silent_s and a little if all processes live, or at once if only a verdict counts that is there, such as
        the error of a process that has left.
        """
        # twice, since the clock of monitor() may be slower
        self.closing.wait(2 * self.period if only_there else 2 * self.silent_s + SHUTDOWN_S)

    # The thread that talks to the store.

    def exchange_heartbeats(self) -> None:
        """Send and read heartbeats until the end or until the store is gone; a store that is stopped holds this thread."""
        with suppress(RuntimeError):  # torch.distributed.DistError: monitor() sees that no heartbeat comes any more
            while True:
                last = self.last_exchange.is_set()
                self.count += 1
                self.exchange_once(self.count)
                if last:
                    break
                self.wake.wait(self.period)
                self.wake.clear()
        self.answered.set()

    def exchange_once(self, count: int) -> None:
        assert self.store is not None
        store = self.store
        if count == 1 and self.rank == 0:  # multi_get waits until every key is there
            for rank in range(self.size):
                store.compare_set(key(rank), "", Heartbeat(0, "start", 0, 0.0).encode())
        store.set(key(self.rank), self.heartbeat(count).encode())
        if self.proposed is not None and self.verdict is None:
            store.compare_set(VERDICT, "", json.dumps(self.proposed))
        if self.verdict is None and store.check([VERDICT]):
            self.verdict = Verdict(*json.loads(store.get(VERDICT)))
            self.answered.set()
        if self.rank == 0:
            texts = store.multi_get([key(rank) for rank in range(self.size)])
            self.heartbeats = {rank: Heartbeat.decode(text.decode()) for rank, text in enumerate(texts) if rank != self.rank}
        elif store.check([key(0)]):
            self.heartbeats = {0: Heartbeat.decode(store.get(key(0)).decode())}

    def heartbeat(self, count: int) -> Heartbeat:
        stage, step, since = self.stage
        reading = self.describe_reading() if stage == "data" else ""
        return Heartbeat(count, GONE if self.leaving else stage, step, time.monotonic() - since, reading)

    def propose(self, mine: Verdict) -> Verdict:
        """Write a verdict to the store unless there is one; return the one that counts, without an answer one's own."""
        self.proposed = self.proposed or mine
        self.wake.set()
        if self.store is not None:
            self.answered.wait(self.period)
        return self.verdict or self.proposed

    def shut_down(self, timeout_s: float) -> None:
        """Tell the others that this process leaves; rank 0 waits until they do, since the store may end with it."""
        self.send_gone()
        self.wait_for_others(timeout_s)
        self.last_exchange.set()
        self.wake.set()
        if self.threads[-1] is not threading.current_thread():
            self.threads[-1].join(self.period)

    def send_gone(self) -> None:
        self.leaving = True
        self.wake.set()

    def wait_for_others(self, timeout_s: float) -> None:
        others = [rank for rank in self.table.monitored if self.rank == 0 and rank not in self.table.dead]
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.threads[-1].is_alive():
            if all(rank in self.heartbeats and self.heartbeats[rank].stage == GONE for rank in others):
                break
            self.wake.set()
            time.sleep(min(0.1, self.period))

    # The thread that monitors.

    def monitor(self) -> None:
        """Check all heartbeats, by a clock that stands still while this process does, as when it is stopped or starved."""
        now, before = 0.0, time.monotonic()
        locked_out: IO[str] | None = None
        while not self.closing.wait(self.period / 2):
            then, before = before, time.monotonic()
            now += min(before - then, 2 * self.period)
            if self.locked_out_s is not None:
                if locked_out is None and self.stage[0] not in ("start", HASHING):  # before, the run has no folder
                    locked_out = self.stacks.open()
                if locked_out is not None:
                    faulthandler.dump_traceback_later(self.locked_out_s, file=locked_out)
            self.table.update({**self.heartbeats, self.rank: self.heartbeat(self.count)}, now)
            verdict = self.verdict or self.decide(now)
            if verdict is not None:
                self.exit(verdict)
        faulthandler.cancel_dump_traceback_later()
        if locked_out is not None:
            locked_out.close()
            self.stacks.remove_empty()

    def decide(self, now: float) -> Verdict | None:
        """Return a verdict if a process is dead or the run stuck: this process's, or the one that another proposed before."""
        text = self.table.describe_dead(now, 2 * self.period)
        if self.rank == 0:
            silence = self.table.seconds_silent(0, now)
            if self.store is not None and silence >= self.silent_s:
                text = f"the store on {self.table.hosts[0]} has not answered for {silence:.0f} s: its process (torchrun) is gone"
            text = text or self.table.describe_stuck(now)
        return None if text is None else self.propose(Verdict(text, ABORTED, self.rank, is_error=False))

    def exit(self, verdict: Verdict) -> None:
        """End this process; unless the verdict is another's error, write its stacks and have one process report."""
        faulthandler.cancel_dump_traceback_later()
        last = threading.Timer(EXIT_S, os._exit, [verdict.code])
        last.daemon = True
        last.start()  # anything below may hang, such as on a file system
        if not verdict.is_error:
            self.write_stacks(verdict.text)
            self.send_gone()
            if self.claim_report(verdict):
                self.report(verdict.text)
            else:
                self.wait_for_report()
        self.shut_down(SHUTDOWN_S)
        os._exit(verdict.code)

    def write_stacks(self, text: str) -> None:
        """Write the stacks of all threads of this process, even of one that holds Python's lock."""
        stage, step, since = self.stage
        where = f"{Heartbeat(0, stage, step, 0.0).describe()} for {time.monotonic() - since:.0f} s"
        self.stacks.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} rank {self.rank}, {where}\n{redact(text)}\n\n")

    def claim_report(self, verdict: Verdict) -> bool:
        """Return whether this process is the one that reports: the first living one, as far as a shared folder can tell."""
        wait_s = 10.0 if verdict.rank == 0 else min(0.2 * self.rank, 3.0)
        deadline = time.monotonic() + (wait_s if self.rank > 0 else 0.0)
        while time.monotonic() < deadline and not (self.folder / VERDICT).exists():
            time.sleep(0.1)
        try:
            (self.folder / VERDICT).open("x").close()
        except FileExistsError:
            return False
        except OSError:
            return True  # two reports are better than none
        return True

    def report(self, text: str) -> None:
        """Print the verdict and call on_abort."""
        with suppress(OSError):
            write_stderr(f"{text}. Where every thread was: {self.folder}")
        thread = threading.Thread(target=self.call_on_abort, args=[text], daemon=True)
        thread.start()
        thread.join(ON_ABORT_S)
        self.wait_for_others(SHUTDOWN_S)  # the end of this process would break their collectives before they write their stacks
        with suppress(OSError):
            (self.folder / VERDICT).write_text(redact(text) + "\n")

    def call_on_abort(self, text: str) -> None:
        try:
            self.on_abort(text)
        except Exception:
            write_stderr(traceback.format_exc())

    def wait_for_report(self) -> None:
        """Wait until the report is done: some launchers kill all processes as soon as one has ended."""
        deadline = time.monotonic() + ON_ABORT_S + 2 * SHUTDOWN_S
        with suppress(OSError):
            while time.monotonic() < deadline and not (self.folder / VERDICT).stat().st_size:
                time.sleep(0.2)


def key(rank: int) -> str:
    return f"beat/{rank}"
