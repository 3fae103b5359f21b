"""The sample that each data worker reads, in memory shared with the process that waits, so that what does not come is named."""

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import NamedTuple

HEAD = struct.Struct("<diH")
"""Time by the clock of all processes of a machine, number of the process, bytes of the text that follows."""
SLOT = 512
MOST_NAMED = 2
"""Workers that a sentence names."""
STATES = {"T": "stopped", "t": "stopped", "D": "waiting for the disk", "Z": "dead", "X": "dead"}
"""Words for what keeps a process from reading, by its state in /proc."""


class Entry(NamedTuple):
    """The sample that a worker reads, "" between two of them, and since when, by time.monotonic."""

    worker: int
    process: int
    since: float
    what: str

    def describe(self) -> str:
        state = process_state(self.process)
        who = f"data worker {self.worker} (process {self.process}{f', {state}' if state else ''})"
        return f"{who} has been {'reading ' + self.what if self.what else 'idle'} for {time.monotonic() - self.since:.0f} s"


class Reading:
    """The entries of all workers of a loader; without workers, one of the process itself."""

    def __init__(self, workers: int) -> None:
        self.workers = max(1, workers)
        self.slots = RawArray("B", self.workers * SLOT)

    def write(self, worker: int, since: float, what: str) -> None:
        text = "".join(letter if letter.isprintable() else "?" for letter in what).encode("utf-8", "replace")[: SLOT - HEAD.size]
        data = HEAD.pack(since, os.getpid(), len(text)) + text
        memoryview(self.slots).cast("B")[worker * SLOT : worker * SLOT + len(data)] = data

    def entries(self) -> list[Entry]:
        """Return the entry of each worker that has started."""
        found = []
        for worker in range(self.workers):
            slot = bytes(self.slots[worker * SLOT : (worker + 1) * SLOT])
            since, process, length = HEAD.unpack_from(slot)
            if process:
                found.append(Entry(worker, process, since, slot[HEAD.size : HEAD.size + length].decode(errors="replace")))
        return found

    def describe(self) -> str:
        """Return a phrase on those that have been reading one sample for longest, or cannot read; "" if there are none."""
        entries = [entry for entry in self.entries() if entry.what or process_state(entry.process)]
        return "; ".join(entry.describe() for entry in sorted(entries, key=lambda entry: entry.since)[:MOST_NAMED])


def process_state(process: int) -> str:
    """Return what keeps a process of this machine from running; "" if nothing is known to."""
    with suppress(OSError):
        return STATES.get(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0], "")
    return "dead" if Path("/proc/self").exists() else ""


class Current:
    """The entry of this process: set where samples are read, amended by what delays them."""

    reading: Reading | None = None
    worker, since, what = 0, 0.0, ""

    @classmethod
    def attach(cls, reading: Reading, worker: int) -> None:
        """Have this process write the entry of a worker."""
        cls.reading, cls.worker = reading, worker
        cls.write("")

    @classmethod
    def write(cls, what: str) -> None:
        cls.what, cls.since = what, time.monotonic()
        if cls.reading is not None:
            cls.reading.write(cls.worker, cls.since, what)

    @classmethod
    def amend(cls, trouble: str) -> None:
        """Add what delays the sample that is being read."""
        if cls.reading is not None and cls.what:
            cls.reading.write(cls.worker, cls.since, f"{cls.what} ({trouble})")


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Let others know what this process reads in this context."""
    Current.write(what)
    try:
        yield
    finally:
        Current.write("")


@contextmanager
def name_slow(board: Reading, slow_s: float | None, log: Callable[[str], object]) -> Iterator[None]:
    """Name each sample, once, that a worker has been reading for slow_s seconds; None: name none."""
    if slow_s is None:
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        named: set[tuple[int, float]] = set()
        while not ended.wait(min(1.0, slow_s / 4)):
            for entry in board.entries():
                if entry.what and time.monotonic() - entry.since > slow_s and (entry.worker, entry.since) not in named:
                    named.add((entry.worker, entry.since))
                    log(entry.describe())

    thread = threading.Thread(target=watch, name="slow-samples", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
