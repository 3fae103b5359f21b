"""What is known of the processes of a run, and the sentence that names the one that is dead or in the way."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

GONE = "gone"
"""The stage of a process that has left the others."""
STAGES = {
    "start": "in its start (before its first step)",
    "data": "waiting for data since step {step}",
    "step": "in step {step}",
    "checkpoint": "writing the checkpoint of step {step}",
    "end": "at its end, after step {step}",
    GONE: "leaving after step {step}",
}
START_S = 60.0
"""How much longer a process may be silent before its first beat: not all begin at once."""
NAMED = 4
"""Groups of processes that a sentence names; the others are counted."""


class Beat(NamedTuple):
    """A sign of life: how many there were before, and where the training thread stands, for how long."""

    count: int
    stage: str
    step: int
    seconds: float

    def encode(self) -> str:
        return f"{self.count} {self.step} {self.seconds:.1f} {self.stage}"

    @staticmethod
    def decode(text: str) -> "Beat":
        count, step, seconds, stage = text.split(" ", 3)
        return Beat(int(count), stage, int(step), float(seconds))

    def where(self) -> str:
        return STAGES.get(self.stage, f"in {self.stage}, step {{step}}").format(step=self.step)


class Ledger:
    """When each process was last heard of, by a clock of the listener; clocks of two machines are never compared.

    The first process listens to all, any other to the first. hosts names each one's machine, in order of rank. After silent_s
    without a beat a process is taken for dead; after stuck_s (None: never) without a step anywhere the run is.
    """

    def __init__(self, rank: int, hosts: Sequence[str], silent_s: float, stuck_s: float | None) -> None:
        self.rank, self.hosts, self.silent_s, self.stuck_s = rank, hosts, silent_s, stuck_s
        self.beats = dict.fromkeys(range(len(hosts)), Beat(0, "start", 0, 0.0))
        self.heard = dict.fromkeys(range(len(hosts)), 0.0)
        self.watched = [other for other in (range(len(hosts)) if rank == 0 else (0,)) if other != rank]
        self.dead: list[int] = []
        self.step, self.stepped = -1, 0.0

    def hear(self, beats: Mapping[int, Beat], now: float) -> None:
        for rank, beat in beats.items():
            if beat.count != self.beats[rank].count:
                self.heard[rank] = now
            self.beats[rank] = beat
            if beat.step > self.step:
                self.step, self.stepped = beat.step, now

    def silence(self, rank: int, now: float) -> float:
        """Seconds without a beat."""
        return now - self.heard[rank] - (0.0 if self.beats[rank].count else START_S)

    def excused(self, rank: int) -> bool:
        """At the end of the run each leaves when it is done."""
        return self.beats[self.rank].stage in ("end", GONE) and self.beats[rank].stage in ("end", GONE)

    def silent(self, now: float, slack_s: float) -> str | None:
        """The sentence about processes that died; with the first also those whose time is up within slack_s."""
        silence = {rank: self.silence(rank, now) for rank in self.watched if not self.excused(rank)}
        if max(silence.values(), default=0.0) < self.silent_s:
            return None
        dead = self.dead = [rank for rank, seconds in silence.items() if seconds >= self.silent_s - slack_s]
        groups = self.groups(dead)
        last = "; ".join(f"{self.name(ranks)} last heard of {where}" for where, ranks in groups[:NAMED])
        left = all(self.beats[rank].stage == GONE for rank in dead)
        why = "left without the others" if left else "was killed, lost its machine, is stopped, or holds Python's lock"
        return f"{self.name(dead)}: no sign of life for {max(silence.values()):.0f} s, so it {why} ({last})"

    def stuck(self, now: float) -> str | None:
        """The sentence about a run in which nothing moves; those first that stand elsewhere than the others."""
        waited = now - self.stepped
        if self.stuck_s is None or waited < self.stuck_s:
            return None
        groups = self.groups(list(self.beats))
        if len(groups) > 1 and len(groups[-1][1]) > 1:
            named, others = groups[:-1], [f"{len(groups[-1][1])} others are {groups[-1][0]}"]
        else:
            named, others = groups, []
        parts = [f"{self.name(ranks)} {verb(ranks)} {where} for {self.longest(ranks):.0f} s" for where, ranks in named[:NAMED]]
        if len(named) > NAMED:
            others.insert(0, f"{sum(len(ranks) for _, ranks in named[NAMED:])} more stand elsewhere")
        return f"no step was completed for {waited:.0f} s: {'; '.join(parts + others)}"

    def groups(self, ranks: Sequence[int]) -> list[tuple[str, list[int]]]:
        """Processes that stand at one place, the smallest group first, of equal ones that which is furthest behind."""
        order = list(STAGES)
        places: dict[tuple[int, int, str], list[int]] = defaultdict(list)
        for rank in ranks:
            beat = self.beats[rank]
            places[beat.step, order.index(beat.stage) if beat.stage in order else len(order), beat.where()].append(rank)
        return [(place[2], members) for place, members in sorted(places.items(), key=lambda item: (len(item[1]), item[0]))]

    def longest(self, ranks: Sequence[int]) -> float:
        return max(self.beats[rank].seconds for rank in ranks)

    def name(self, ranks: Sequence[int]) -> str:
        """Such as "rank 1 on node2", "ranks 8-15 on node2"; a run of one process has no ranks."""
        if len(self.hosts) == 1:
            return f"the run on {self.hosts[0]}"
        places: dict[str, list[int]] = defaultdict(list)
        for rank in ranks:
            places[self.hosts[rank]].append(rank)
        named = [f"rank{'s' * (len(here) > 1)} {spans(here)} on {host}" for host, here in places.items()]
        return ", ".join(named[:NAMED]) + (f" and on {len(named) - NAMED} more machines" if len(named) > NAMED else "")


def verb(ranks: Sequence[int]) -> str:
    return "are" if len(ranks) > 1 else "is"


def spans(numbers: Sequence[int]) -> str:
    """Ascending numbers as "0-3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
