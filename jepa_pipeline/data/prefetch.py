"""Fetching of shards before they are read, in background threads of the process that will read them."""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Thread
from typing import Generic, TypeVar

THREADS = 2
"""Shards that one process fetches at the same time; there are several processes."""

Item = TypeVar("Item")


class Prefetcher(Generic[Item]):
    """Calls `fetch` for the items that were requested last, in their order, in daemon threads.

    Errors of `fetch` are dropped: whoever reads the item calls `fetch` itself and raises them. A process does not wait
    for the threads when it ends.

    Args:
        fetch: called with one item, which is hashable; it must be picklable.
    """

    def __init__(self, fetch: Callable[[Item], None]) -> None:
        self.fetch = fetch
        self.pending: deque[Item] = deque()
        self.started: set[Item] = set()
        self.threads: list[Thread] = []

    def request(self, items: Sequence[Item]) -> None:
        """Fetch these items and forget earlier ones that have not been started. Cheap to repeat; never blocks."""
        self.started.intersection_update(items)
        self.pending = deque(item for item in items if item not in self.started)
        self.threads = [thread for thread in self.threads if thread.is_alive()]
        for _ in range(min(THREADS, len(self.pending)) - len(self.threads)):
            self.threads.append(Thread(target=self._fetch_pending, name="prefetch", daemon=True))
            self.threads[-1].start()

    def _fetch_pending(self) -> None:
        with suppress(IndexError):  # nothing is pending any more; asking first would race with the other thread
            while True:
                item = self.pending.popleft()
                self.started.add(item)
                with suppress(Exception):
                    self.fetch(item)

    def __reduce__(self) -> tuple[type, tuple[Callable[[Item], None]]]:
        # Threads cannot be pickled: a worker that gets a copy starts its own.
        return Prefetcher, (self.fetch,)
