"""The last heartbeats of all processes of a run, and the sentences that name those that are dead or stuck."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

GONE = "gone"
"""The stage of a process that has left the run."""
HASHING = "hashes"
"""The stage of a process that reads all data before the first step; it begins anew with each shard."""
STAGES = {
    "start": "in its start (before its first step)",
    HASHING: "comparing the hashes of the data",
    "data": "waiting for data since step {step}",
    "step": "in step {step}",
    "checkpoint": "writing the checkpoint of step {step}",
    "end": "at its end, after step {step}",
    GONE: "leaving after step {step}",
}
START_S = 60.0
"""Additional seconds until a process's first heartbeat: not all start at the same time."""
MOST_NAMED = 4
"""Groups of processes that a sentence names; the others are counted."""


class Heartbeat(NamedTuple):
    """A sign of life of a process, and what its training thread does.

    Attributes:
        count: heartbeats of the process so far.
        stage: a key of STAGES.
        step: the optimizer step.
        seconds: since the stage began.
        reading: what its data workers read, if it waits for them.
    """

    count: int
    stage: str
    step: int
    seconds: float
    reading: str = ""

    def encode(self) -> str:
        return f"{self.count} {self.step} {self.seconds:.1f} {self.stage} {self.reading}"

    @staticmethod
    def decode(text: str) -> "Heartbeat":
        count, step, seconds, stage, reading = text.split(" ", 4)
        return Heartbeat(int(count), stage, int(step), float(seconds), reading)

    def describe(self) -> str:
        return STAGES.get(self.stage, f"in {self.stage}, step {{step}}").format(step=self.step)


class HeartbeatTable:
    """The time of each process's last heartbeat, by this process's clock: clocks of two machines are never compared.

    Rank 0 monitors all processes, any other rank 0 alone.

    Args:
        rank: of this process.
        hosts: the machine of each process, in order of rank.
        silent_s: seconds without a heartbeat after which a process is dead.
        stuck_s: seconds without a step on any process after which the run is stuck; None: never.
    """

    def __init__(self, rank: int, hosts: Sequence[str], silent_s: float, stuck_s: float | None) -> None:
        self.rank, self.hosts, self.silent_s, self.stuck_s = rank, hosts, silent_s, stuck_s
        self.heartbeats = dict.fromkeys(range(len(hosts)), Heartbeat(0, "start", 0, 0.0))
        self.last_heard = dict.fromkeys(range(len(hosts)), 0.0)
        self.monitored = [other for other in (range(len(hosts)) if rank == 0 else (0,)) if other != rank]
        self.dead: list[int] = []
        self.step, self.step_time = -1, 0.0

    def update(self, heartbeats: Mapping[int, Heartbeat], now: float) -> None:
        """Enter heartbeats that were read at a time."""
        for rank, heartbeat in heartbeats.items():
            if heartbeat.count != self.heartbeats[rank].count:
                self.last_heard[rank] = now
            self.heartbeats[rank] = heartbeat
            if heartbeat.step > self.step:
                self.step, self.step_time = heartbeat.step, now
            if heartbeat.stage == HASHING:  # each shard counts as a step
                self.step_time = max(self.step_time, now - heartbeat.seconds)

    def seconds_silent(self, rank: int, now: float) -> float:
        """Return the seconds since the last heartbeat."""
        return now - self.last_heard[rank] - (0.0 if self.heartbeats[rank].count else START_S)

    def may_be_silent(self, rank: int) -> bool:
        """Return whether both are at the end of the run, where each leaves when it is done."""
        return self.heartbeats[self.rank].stage in ("end", GONE) and self.heartbeats[rank].stage in ("end", GONE)

    def describe_dead(self, now: float, slack_s: float) -> str | None:
        """Return a sentence about the dead processes, None if all live.

        Once one is dead, those that will be within slack_s count too: a machine that fails takes all its processes along.
        """
        silence = {rank: self.seconds_silent(rank, now) for rank in self.monitored if not self.may_be_silent(rank)}
        if max(silence.values(), default=0.0) < self.silent_s:
            return None
        dead = self.dead = [rank for rank, seconds in silence.items() if seconds >= self.silent_s - slack_s]
        groups = self.group_by_stage(dead)
        last = "; ".join(f"{self.name(ranks)} last heard of {where}" for where, ranks in groups[:MOST_NAMED])
        left = all(self.heartbeats[rank].stage == GONE for rank in dead)
        why = "left without the others" if left else "was killed, lost its machine, is stopped, or holds Python's lock"
        return f"{self.name(dead)}: no heartbeat for {max(silence.values()):.0f} s, so it {why} ({last})"

    def describe_stuck(self, now: float) -> str | None:
        """Return a sentence about a run that is stuck, None if it is not; it names first those that differ from the most."""
        waited = now - self.step_time
        if self.stuck_s is None or waited < self.stuck_s:
            return None
        groups = self.group_by_stage(list(self.heartbeats))
        if len(groups) > 1 and len(groups[-1][1]) > 1:
            named, others = groups[:-1], [f"{len(groups[-1][1])} others are {groups[-1][0]}"]
        else:
            named, others = groups, []
        parts = []
        for where, ranks in named[:MOST_NAMED]:
            longest = max((self.heartbeats[rank] for rank in ranks), key=lambda heartbeat: heartbeat.seconds)
            reading = f" ({longest.reading})" if longest.reading else ""
            parts.append(f"{self.name(ranks)} {'are' if len(ranks) > 1 else 'is'} {where} for {longest.seconds:.0f} s{reading}")
        if len(named) > MOST_NAMED:
            others.insert(0, f"{sum(len(ranks) for _, ranks in named[MOST_NAMED:])} more are elsewhere")
        return f"no step was completed for {waited:.0f} s: {'; '.join(parts + others)}"

    def group_by_stage(self, ranks: Sequence[int]) -> list[tuple[str, list[int]]]:
        """Return descriptions with the ranks they fit: the smallest group first, of equal ones the one that is furthest behind."""
        order = list(STAGES)
        groups: dict[tuple[int, int, str], list[int]] = defaultdict(list)
        for rank in ranks:
            heartbeat = self.heartbeats[rank]
            progress = order.index(heartbeat.stage) if heartbeat.stage in order else len(order)
            groups[heartbeat.step, progress, heartbeat.describe()].append(rank)
        return [(key[2], members) for key, members in sorted(groups.items(), key=lambda item: (len(item[1]), item[0]))]

    def name(self, ranks: Sequence[int]) -> str:
        """Return such as "rank 1 on node2", "ranks 8-15 on node2"; for a run of one process its machine alone."""
        if len(self.hosts) == 1:
            return f"the run on {self.hosts[0]}"
        by_host: dict[str, list[int]] = defaultdict(list)
        for rank in ranks:
            by_host[self.hosts[rank]].append(rank)
        named = [f"rank{'s' * (len(here) > 1)} {format_numbers(here)} on {host}" for host, here in by_host.items()]
        return ", ".join(named[:MOST_NAMED]) + (
            f" and on {len(named) - MOST_NAMED} more machines" if len(named) > MOST_NAMED else ""
        )


def format_numbers(numbers: Sequence[int]) -> str:
    """Return ascending numbers as "0-3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
