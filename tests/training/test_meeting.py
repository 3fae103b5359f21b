"""Processes that are started again meet where those before them have met, and do not take them for each other."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore

from jepa_pipeline.training import meeting
from jepa_pipeline.training.meeting import agree_on_start, check_devices


def start(store, size):
    with ThreadPoolExecutor(size) as threads:
        return set(threads.map(lambda rank: agree_on_start(store, rank, size), reversed(range(size))))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_all_processes_of_a_start_agree_on_a_name_that_no_other_start_has(size):
    store = HashStore()
    starts = [start(store, size) for _ in range(3)]
    assert [len(names) for names in starts] == [1, 1, 1] and len(set.union(*starts)) == 3


def test_one_that_died_while_it_asked_is_not_taken_for_its_successor(monkeypatch):
    store = HashStore()
    store.set("asks/1", "of the dead")
    assert len(start(store, 2)) == 1
    store.set("asks/1", "of the dead")
    monkeypatch.setattr(meeting, "RENDEZVOUS_S", 0.1)
    with pytest.raises(TimeoutError, match="rank 1 did not come within"):
        agree_on_start(store, 0, 2)


def test_the_machines_of_all_processes_are_known():
    store = HashStore()
    with ThreadPoolExecutor(3) as threads:
        hosts = list(threads.map(lambda rank: check_devices(store, rank, 3, "cpu"), range(3)))
    assert hosts == [[meeting.socket.gethostname()] * 3] * 3
