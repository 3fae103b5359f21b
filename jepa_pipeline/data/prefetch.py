"""Fetching shards before they are read, in the background of the process that will read them."""

import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread

from jepa_pipeline.data.cache import Cache
from jepa_pipeline.data.manifest import Shard

THREADS = 2
"""Shards that one process fetches at the same time; there are several processes."""

Wanted = tuple[str, Shard]
"""A shard and its URL."""


class Ahead:
    """Fetches the shards it was asked for last, first ones first, in daemon threads that a process does not wait for at its end.

    A shard that another process is fetching is passed over, so that the processes of a node share out the list and keep its
    order. What fails is passed over too: whoever reads that shard meets the error again.
    """

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.pending: deque[Wanted] = deque()
        self.begun: set[Wanted] = set()
        self.threads: list[Thread] = []

    def ask(self, wanted: Sequence[Wanted]) -> None:
        """Have these fetched, and no longer what was asked for before and has not begun. Cheap to repeat; never blocks."""
        self.begun.intersection_update(wanted)
        self.pending = deque(pair for pair in wanted if pair not in self.begun)
        self.threads = [thread for thread in self.threads if thread.is_alive()]
        for _ in range(min(THREADS, len(self.pending)) - len(self.threads)):
            self.threads.append(Thread(target=self._work, name="fetch-ahead", daemon=True))
            self.threads[-1].start()

    def _work(self) -> None:
        with suppress(IndexError):  # nothing is pending any more
            while True:
                pair = self.pending.popleft()
                self.begun.add(pair)
                with suppress(Exception):  # reading the shard repeats it, and raises it where it can be told
                    os.close(self.cache.open(*pair, wait=False).fd)

    def __reduce__(self) -> tuple[type, tuple[Cache]]:
        """Threads do not travel."""
        return Ahead, (self.cache,)
