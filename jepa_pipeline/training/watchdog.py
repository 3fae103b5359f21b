"""A watch over all processes of a run: names the one that is dead, silent or stuck, and ends the job, which else would idle."""

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
from typing import NamedTuple

from jepa_pipeline.distributed import Store
from jepa_pipeline.training.heartbeat import GONE, Beat, Ledger
from jepa_pipeline.training.signals import say

GIVEN_UP = 71
"""Exit code of every process of a run that was given up."""
VERDICT, STACKS = "verdict", "stacks"
"""A key of the store; the folder in the run's, in which the sentence and every process's stacks lie afterwards."""
GIVE_UP_S, PART_S, LAST_S = 90.0, 10.0, 150.0
"""How long the one that speaks may take to give the job up; how long the first process waits for the goodbyes of others after an
error; after how long a process that leaves ends, whatever it waits for."""


class Verdict(NamedTuple):
    """Why a run ends before its time, with which exit code, and who says so; an error is told by the process that made it."""

    text: str
    code: int
    rank: int
    told: bool


class Watch:
    """While entered, two threads: one talks to the store and may hang there, the other judges and never does.

    Args:
        store: the watch's own client, no one else's, with a prefix that no earlier start of the run has used; None in one process.
        rank: of this process.
        hosts: the machine of each process, in order of rank.
        folder: of the run, shared by all.
        silent_s: seconds without a sign of life after which a process is taken for dead.
        stuck_s: seconds without a step, anywhere, after which the run is given up; None: never.
        give_up: called with the sentence by one living process, from a thread; such as to put the job back into the queue.
    """

    def __init__(
        self,
        store: Store | None,
        rank: int,
        hosts: list[str],
        folder: Path,
        silent_s: float,
        stuck_s: float | None,
        give_up: Callable[[str], object],
    ) -> None:
        self.store, self.rank, self.size, self.folder, self.give_up = store, rank, len(hosts), folder / STACKS, give_up
        self.silent_s, self.period = silent_s, min(2.0, silent_s / 5)
        self.ledger = Ledger(rank, hosts, silent_s, stuck_s)
        # A judge that gets no turn for so long is kept off by Python's lock; then only faulthandler's own thread can still speak.
        self.locked_out_s = stuck_s if store is None else 0.75 * silent_s
        self.place = ("start", 0, time.monotonic())
        self.beats: dict[int, Beat] = {}
        self.talks, self.leaving = 0, False
        self.verdict: Verdict | None = None
        self.proposed: Verdict | None = None
        self.over, self.quiet, self.wake, self.heard = (threading.Event() for _ in range(4))
        self.threads = [threading.Thread(target=self.judge, name="watch", daemon=True)]
        if store is not None:
            store.set_timeout(timedelta(seconds=silent_s))
            self.threads.append(threading.Thread(target=self.talk, name="watch-talk", daemon=True))

    def __enter__(self) -> "Watch":
        if self.rank == 0:
            (self.folder / VERDICT).unlink(missing_ok=True)
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave. The first process, with which the store mostly ends, waits for the others; after an error only briefly."""
        self.over.set()
        self.threads[0].join()
        self.part(self.silent_s if kind is None else PART_S)

    def at(self, stage: str, step: int) -> None:
        """Where the training thread is from now on: "start", "data", "step", "checkpoint" or "end", and the step."""
        self.place = (stage, step, time.monotonic())

    def failed(self, text: str, code: int) -> bool:
        """Tell the others that this process leaves because of an error; they leave too, quietly, with the same code.

        Returns:
            Whether it was the first to tell; the error of any other is mostly a consequence.
        """
        self.over.set()
        self.threads[0].join()  # for ever, if it is just about to end this process
        mine = Verdict(text, code, self.rank, told=True)
        first = self.propose(mine) == mine
        self.part(PART_S)
        return first

    def lost(self) -> None:
        """A collective broke, so somebody is gone: wait for the sentence that names who, with which the process ends.

        Returns after twice silent_s and a little if all live.
        """
        self.over.wait(2 * self.silent_s + PART_S)  # the judge's clock may be slower

    # the thread that talks

    def talk(self) -> None:
        """Beat, and hear the others, until the end or until the store is gone; a store that is stopped holds this thread."""
        with suppress(RuntimeError):  # a torch.distributed.DistError: the judge notes that nothing is heard any more
            while True:
                last = self.quiet.is_set()
                self.talks += 1
                self.exchange(self.talks)
                if last:
                    break
                self.wake.wait(self.period)
                self.wake.clear()
        self.heard.set()

    def exchange(self, count: int) -> None:
        assert self.store is not None
        store = self.store
        if count == 1 and self.rank == 0:  # so that all may be asked for at once
            for rank in range(self.size):
                store.compare_set(key(rank), "", Beat(0, "start", 0, 0.0).encode())
        store.set(key(self.rank), self.beat(count).encode())
        if self.proposed is not None and self.verdict is None:
            store.compare_set(VERDICT, "", json.dumps(self.proposed))
        if self.verdict is None and store.check([VERDICT]):
            self.verdict = Verdict(*json.loads(store.get(VERDICT)))
            self.heard.set()
        if self.rank == 0:
            texts = store.multi_get([key(rank) for rank in range(self.size)])
            self.beats = {rank: Beat.decode(text.decode()) for rank, text in enumerate(texts) if rank != self.rank}
        elif store.check([key(0)]):
            self.beats = {0: Beat.decode(store.get(key(0)).decode())}

    def beat(self, count: int) -> Beat:
        stage, step, since = self.place
        return Beat(count, GONE if self.leaving else stage, step, time.monotonic() - since)

    def propose(self, mine: Verdict) -> Verdict:
        """Write a verdict to the store, unless there is one; the one that counts. Without an answer, one's own."""
        self.proposed = self.proposed or mine
        self.wake.set()
        if self.store is not None:
            self.heard.wait(self.period)
        return self.verdict or self.proposed

    def part(self, patience_s: float) -> None:
        """Say goodbye; the first process waits until the others have, for the store may end with it."""
        self.say_goodbye()
        self.await_goodbyes(patience_s)
        self.quiet.set()
        self.wake.set()
        if self.threads[-1] is not threading.current_thread():
            self.threads[-1].join(self.period)

    def say_goodbye(self) -> None:
        self.leaving = True
        self.wake.set()

    def await_goodbyes(self, patience_s: float) -> None:
        others = [rank for rank in self.ledger.watched if self.rank == 0 and rank not in self.ledger.dead]
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and self.threads[-1].is_alive():
            if all(rank in self.beats and self.beats[rank].stage == GONE for rank in others):
                break
            self.wake.set()
            time.sleep(min(0.1, self.period))

    # the thread that judges

    def judge(self) -> None:
        """Look at what was heard, by a clock that stands still while this process does, as when it is stopped or starved."""
        now, before = 0.0, time.monotonic()
        while not self.over.wait(self.period / 2):
            then, before = before, time.monotonic()
            now += min(before - then, 2 * self.period)
            self.arm()
            self.ledger.hear({**self.beats, self.rank: self.beat(self.talks)}, now)
            verdict = self.verdict or self.find(now)
            if verdict is not None:
                self.leave(verdict)
        self.disarm()

    def find(self, now: float) -> Verdict | None:
        """What this process has to say against the others, unless one has said something before it could."""
        text = self.ledger.silent(now, 2 * self.period)
        if self.rank == 0:
            silence = self.ledger.silence(0, now)
            if self.store is not None and silence >= self.silent_s:
                text = f"the store on {self.ledger.hosts[0]} has not answered for {silence:.0f} s: its process (torchrun) is gone"
            text = text or self.ledger.stuck(now)
        return None if text is None else self.propose(Verdict(text, GIVEN_UP, self.rank, told=False))

    def arm(self) -> None:
        if self.locked_out_s is not None:
            faulthandler.dump_traceback_later(self.locked_out_s, file=2)

    def disarm(self) -> None:
        if self.locked_out_s is not None:
            faulthandler.cancel_dump_traceback_later()

    def leave(self, verdict: Verdict) -> None:
        """End this process; in the case of a verdict that nobody has told, with its stacks on disk and the job given up."""
        self.disarm()
        last = threading.Timer(LAST_S, os._exit, [verdict.code])
        last.daemon = True
        last.start()  # whatever hangs below, such as a file system
        if not verdict.told:
            self.dump(verdict.text)
            self.say_goodbye()
            if self.speaks(verdict):
                self.speak(verdict.text)
            else:
                self.wait_for_the_speaker()
        self.part(PART_S)
        os._exit(verdict.code)

    def dump(self, text: str) -> None:
        """Where every thread of this process is, whether it holds Python's lock or not."""
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            stage, step, since = self.place
            with (self.folder / f"rank-{self.rank:04d}.txt").open("w") as file:
                where = f"{Beat(0, stage, step, 0.0).where()} for {time.monotonic() - since:.0f} s"
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} rank {self.rank}, {where}\n{text}\n\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)

    def speaks(self, verdict: Verdict) -> bool:
        """Whether this process is the one that tells and gives up: the first that lives, as far as a shared folder can say."""
        patience_s = 10.0 if verdict.rank == 0 else min(0.2 * self.rank, 3.0)
        deadline = time.monotonic() + (patience_s if self.rank > 0 else 0.0)
        while time.monotonic() < deadline and not (self.folder / VERDICT).exists():
            time.sleep(0.1)
        try:
            (self.folder / VERDICT).open("x").close()
        except FileExistsError:
            return False
        except OSError:
            return True  # told twice is better than never
        return True

    def speak(self, text: str) -> None:
        with suppress(OSError):
            say(f"{text}. Where every thread was: {self.folder}")
        thread = threading.Thread(target=self.attempt, args=[text], daemon=True)
        thread.start()
        thread.join(GIVE_UP_S)
        self.await_goodbyes(PART_S)  # the end of one breaks the collectives of others, whose stacks would no longer show them
        with suppress(OSError):
            (self.folder / VERDICT).write_text(text + "\n")

    def attempt(self, text: str) -> None:
        try:
            self.give_up(text)
        except Exception:
            say(traceback.format_exc())

    def wait_for_the_speaker(self) -> None:
        """Until the file holds the sentence: some launchers kill all processes as soon as one has ended."""
        deadline = time.monotonic() + GIVE_UP_S + 2 * PART_S
        with suppress(OSError):
            while time.monotonic() < deadline and not (self.folder / VERDICT).stat().st_size:
                time.sleep(0.2)


def key(rank: int) -> str:
    return f"beat/{rank}"
