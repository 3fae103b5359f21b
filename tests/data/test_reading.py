"""Whoever waits for data can say for which sample, and a loader without a watchdog ends by itself."""

import os
import re
import signal
import time

import pytest
import torch
from torch.utils.data import Dataset

from jepa_pipeline.batch import Batch
from jepa_pipeline.config.data import CacheConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data import workers as workers_module
from jepa_pipeline.data.dataset import EvalImages
from jepa_pipeline.data.reading import Current, Reading, name_slow, reading
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.data.workers import build_loader

BATCHES = [[0], [1], [2]]


class Slow(Dataset[Batch]):
    """Batches of which one takes its time."""

    def __init__(self, slow: int, seconds: float) -> None:
        self.slow, self.seconds = slow, seconds

    def __getitems__(self, indices: list[int]) -> Batch:
        with reading(f"sample {indices[0]} of a.tar"):
            time.sleep(self.seconds * (indices[0] == self.slow))
        return Batch([torch.zeros(1, 3, 2, 2)], [], None, ["k"], [])


def wait_for(condition) -> None:
    while not condition():  # a hang is ended by the time limit of the suite
        time.sleep(0.01)


def test_a_probe_that_waits_in_vain_ends_and_names_the_sample():
    loader = build_loader(Slow(1, 8), BATCHES, workers=1, timeout_s=2.0)
    with pytest.raises(
        UserError, match=r"^no batch came for 2 s: data worker 0 \(process \d+\) has been reading sample 1 of a.tar"
    ):
        list(loader)


def test_a_worker_that_was_stopped_is_named():
    loader = build_loader(Slow(2, 60), BATCHES, workers=1)
    batches = iter(loader)
    next(batches)
    wait_for(lambda: "sample 2" in loader.reading.describe())
    (entry,) = loader.reading.entries()
    assert entry.describe().startswith(f"data worker 0 (process {entry.process}) has been reading sample 2 of a.tar for 0 s")
    os.kill(entry.process, signal.SIGSTOP)
    wait_for(lambda: f"(process {entry.process}, stopped) has been reading sample 2" in loader.reading.describe())
    os.kill(entry.process, signal.SIGKILL)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_takes_long_is_named_once(workers: int, monkeypatch, capfd):
    monkeypatch.setattr(workers_module, "SLOW_S", 0.5)
    assert len(list(build_loader(Slow(1, 2), BATCHES, workers, timeout_s=60.0))) == 3
    said = capfd.readouterr().err
    assert len(re.findall(r"data worker 0 \(process \d+\) has been reading sample 1 of a.tar for \d s", said)) == 1
    assert said.count("reading") == 1, "the others were quick"


def test_no_sample_is_named_if_none_is_to_be():
    board = Reading(1)
    board.write(0, 0.0, "sample 1 of a.tar")
    named = []
    with name_slow(board, None, named.append):
        time.sleep(0.05)
    assert named == []
    with name_slow(board, 0.01, named.append):  # with a limit it would be
        wait_for(lambda: named)


def test_any_name_is_one_short_line():
    board = Reading(2)
    board.write(1, time.monotonic(), "a\n\x1b[2J\udcff" + "ä" * 1000)
    assert "idle" not in board.describe(), "a worker that has not started reads nothing"
    (entry,) = board.entries()
    assert entry.worker == 1 and entry.process == os.getpid() and entry.what.startswith("a??[2J") and entry.what.isprintable()


def test_the_first_retry_is_said_and_all_are_seen_by_others(url, server, tmp_path, capfd, monkeypatch):
    board, seen = Reading(1), []
    Current.attach(board, 0)
    monkeypatch.setattr("jepa_pipeline.data.remote.time.sleep", lambda _: seen.append(board.describe()))
    shards = Shards(url, cache=CacheConfig(folder=tmp_path / "cache"))
    server.faults["shard-000000.tar"] = [503, 500]
    EvalImages(shards, 8).__getitems__([1])
    place = f"sample number 1 of {server.url}/set%20100%25/shard-000000.tar"
    assert [text.partition(" for ")[0].partition("reading ")[2] for text in seen] == [
        f"{place} (try 2 of 4, the server answered 503)",
        f"{place} (try 3 of 4, the server answered 500)",
    ]
    said = capfd.readouterr().err.splitlines()
    assert said == [f"{server.url}/set%20100%25/shard-000000.tar is tried again, up to 4 times: the server answered 503"]
    assert board.describe() == ""
