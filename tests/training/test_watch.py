"""A process that is dead, silent or stuck is named, every process says where it was, and the job ends."""

import ctypes
import inspect
import multiprocessing
import os
import re
import signal
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from heartbeats import has_heard_from_all
from torch.distributed import PrefixStore, TCPStore
from torch.utils.data import DataLoader

from jepa_pipeline.training.heartbeat import GONE, HASHING, Heartbeat, HeartbeatTable, format_numbers
from jepa_pipeline.training.watchdog import ABORTED, Watchdog

FORK = multiprocessing.get_context("fork")
HOSTS = ["node1", "node1", "node2"]
SILENT_S, STUCK_S = 4.0, 5.0  # 36 processes share the cores, and any of them may wait for seconds
FAILED = 9

SCENARIOS = {
    "healthy": {"steps": 60},
    "slow": {2: "sleep", "steps": 30},
    "killed": {2: signal.SIGKILL},
    "stopped": {2: signal.SIGSTOP},
    "first_killed": {0: signal.SIGKILL},
    "first_stopped": {0: signal.SIGSTOP},
    "locked": {1: "lock"},
    "failed": {1: "fail"},
    "first_failed": {0: "fail"},
    "broken": {2: signal.SIGKILL, 1: "lost"},
    "data": {2: "data", "stuck_s": STUCK_S},
    "collective": {1: "collective", 2: "collective", "stuck_s": 3 * STUCK_S},  # its processes meet first
}
"""What befalls which rank of three after its tenth step: a signal, or something it does."""


def wait_in_the_kernel():
    os.read(os.pipe()[0], 1)


def wait_for_a_collective(rank, port):
    """Two of three call it."""
    store = PrefixStore("group", TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False))
    dist.init_process_group("gloo", store=store, rank=rank - 1, world_size=2, timeout=timedelta(seconds=300))
    if rank == 2:
        dist.all_reduce(torch.ones(1))
    wait_in_the_kernel()


def hold_the_lock():
    """Sleep in C, so that no other thread of Python has a turn."""
    ctypes.PyDLL(None).sleep(1000)


def act(what, rank, port, folder, watchdog):
    match what:
        case "collective":
            wait_for_a_collective(rank, port)
        case "data":
            wait_in_the_kernel()
        case "lock":
            hold_the_lock()
        case "fail":
            watchdog.report_error("the loss is nan", FAILED)
            os._exit(FAILED)
        case "lost":
            wait_for((folder / "signalled").exists)
            watchdog.wait_for_verdict()
        case "sleep":
            time.sleep(2.5 * SILENT_S)


def meet(rank, folder):
    """The port of the store, which lives in the first process."""
    path = folder / "port"
    if rank > 0:
        wait_for(path.exists)
        return int(path.read_text()), None
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    (folder / "port.part").write_text(str(server.port))
    (folder / "port.part").rename(path)
    return server.port, server


def meet_all(rank, folder, name):
    (folder / f"{name}{rank}").touch()
    wait_for(lambda: all((folder / f"{name}{other}").exists() for other in range(3)))


def wait_until_heard(watchdog, stage):
    def heard():
        watchdog.set_stage(stage, 10)
        return has_heard_from_all(watchdog)

    wait_for(heard)


def train(rank, folder, plan):
    """A process of a run: steps of 50 ms, until its plan says otherwise."""
    os.dup2(os.open(folder / f"stderr{rank}", os.O_CREAT | os.O_WRONLY), 2)
    port, server = meet(rank, folder)
    store = PrefixStore("watch", TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False))
    threads = threading.active_count()
    with Watchdog(
        store, rank, HOSTS, folder, SILENT_S, plan.get("stuck_s"), lambda text: (folder / f"gave_up{rank}").write_text(text)
    ) as watchdog:
        watchdog.set_stage("start", 0)
        for step in range(plan.get("steps", 10**9)):
            watchdog.set_stage("data", step)
            if step == 10:
                wait_until_heard(watchdog, HASHING if "stuck_s" in plan else "data")  # hashing is never stuck
                meet_all(rank, folder, "ready")
                watchdog.set_stage("data", step)
                if plan.get(rank) != "data":
                    watchdog.set_stage("step", step + 1)
                act(plan.get(rank), rank, port, folder, watchdog)
            elif step > 10 and "stuck_s" in plan:
                watchdog.set_stage("step", 11)  # the others wait for it
                wait_in_the_kernel()
            watchdog.set_stage("step", step + 1)
            time.sleep(0.05)
        meet_all(rank, folder, "done")
        watchdog.set_stage("end", step + 1)
    os._exit(0 if threading.active_count() == threads else 1)


def wait_for(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All scenarios, played at the same time: exit codes, who gave the run up and what it said, stderr, stacks."""
    started = {}
    for name, plan in SCENARIOS.items():
        folder = tmp_path_factory.mktemp(name)
        started[name] = folder, [FORK.Process(target=train, args=(rank, folder, plan), daemon=True) for rank in range(3)]
    for _, processes in started.values():
        for process in processes:
            process.start()
    ends = {}
    for name, (folder, processes) in started.items():
        wait_for(lambda folder=folder: all((folder / f"ready{rank}").exists() for rank in range(3)))
        for rank, what in SCENARIOS[name].items():
            if isinstance(what, signal.Signals):
                os.kill(processes[rank].pid, what)
        (folder / "signalled").touch()
    for name, (folder, processes) in started.items():
        held = [rank for rank, what in SCENARIOS[name].items() if what in (signal.SIGSTOP, "lock")]
        for rank, process in enumerate(processes):
            if rank not in held:
                process.join(60)
        codes = [process.exitcode for process in processes]
        gave_up = {rank: path.read_text() for rank in range(3) if (path := folder / f"gave_up{rank}").exists()}
        stderr = [(folder / f"stderr{rank}").read_text() for rank in range(3)]
        stacks = {path.name: path.read_text() for path in (folder / "stacks").glob("*") if path.stat().st_size}
        ends[name] = SimpleNamespace(codes=codes, gave_up=gave_up, stderr=stderr, stacks=stacks)
    for _, processes in started.values():
        for process in processes:
            process.kill()
            process.join()
    return ends


@pytest.mark.parametrize("name", ["healthy", "slow"])
def test_a_run_that_lives_is_left_alone_however_slow_a_step(runs, name):
    end = runs[name]
    assert end.codes == [0, 0, 0] and not end.gave_up and not end.stacks, end.stderr


DEATHS = {
    "killed": ("rank 2 on node2", [ABORTED, ABORTED, -9], 0),
    "stopped": ("rank 2 on node2", [ABORTED, ABORTED, None], 0),
    "first_killed": ("rank 0 on node1", [-9, ABORTED, ABORTED], 1),
    "first_stopped": ("rank 0 on node1", [None, ABORTED, ABORTED], 1),
    "locked": ("rank 1 on node1", [ABORTED, None, ABORTED], 0),
    "broken": ("rank 2 on node2", [ABORTED, ABORTED, -9], 0),
}


@pytest.mark.parametrize("name", DEATHS)
def test_the_dead_process_is_named_and_one_of_the_living_gives_the_run_up(runs, name):
    (who, codes, speaker), end = DEATHS[name], runs[name]
    assert end.codes == codes, end.stderr
    sentence = rf"{who}: no heartbeat for \d+ s, so it was killed, .* \({who} last heard of (in|waiting for data since) step \d+\)"
    assert len(end.gave_up) == 1
    [(rank, text)] = end.gave_up.items()
    assert re.fullmatch(sentence, text)
    assert speaker == 0 or rank in (1, 2)
    assert rank == speaker or speaker == 1  # two that decide alone may decide in any order
    assert [rank for rank in range(3) if text in end.stderr[rank]] == [rank]
    assert end.stacks["verdict"] == text + "\n"
    living = [f"rank-{rank:04d}.txt" for rank in range(3) if codes[rank] == ABORTED]
    assert sorted(end.stacks) == sorted([*living, "verdict", *(["rank-0001.txt"] if name == "locked" else [])])
    assert all(who in end.stacks[path] and "in train" in end.stacks[path] for path in living)


def test_who_holds_pythons_lock_still_shows_where(runs):
    assert "in hold_the_lock" in runs["locked"].stacks["rank-0001.txt"]


def test_no_stack_goes_to_the_terminal(runs):
    assert not [text for end in runs.values() for text in end.stderr if 'File "' in text]


def test_one_that_waits_for_a_broken_collective_shows_where(runs):
    assert "in wait_for_verdict" in runs["broken"].stacks["rank-0001.txt"]


@pytest.mark.parametrize("name", ["failed", "first_failed"])
def test_one_that_fails_takes_the_others_with_it_quietly(runs, name):
    end = runs[name]
    assert end.codes == [FAILED] * 3
    assert not end.gave_up and not end.stacks
    others = [rank for rank, what in enumerate(SCENARIOS[name].get(rank) for rank in range(3)) if what is None]
    assert all("nan" not in end.stderr[rank] and "rank" not in end.stderr[rank] for rank in others)


def test_one_without_data_is_told_from_those_that_wait_for_it(runs):
    end = runs["data"]
    assert end.codes == [ABORTED] * 3, end.stderr
    assert list(end.gave_up) == [0]
    assert re.fullmatch(
        r"no step was completed for \d+ s: rank 2 on node2 is waiting for data since step 10 for \d+ s; 2 others are in step 11",
        end.gave_up[0],
    )
    assert (
        "in wait_in_the_kernel" in end.stacks["rank-0002.txt"] and "waiting for data since step 10" in end.stacks["rank-0002.txt"]
    )


def test_a_collective_that_does_not_come_shows_in_the_stacks(runs):
    end = runs["collective"]
    assert end.codes == [ABORTED] * 3, end.stderr
    assert "in all_reduce" in end.stacks["rank-0002.txt"] and "in wait_for_a_collective" in end.stacks["rank-0001.txt"]
    assert "all_reduce" not in end.stacks["rank-0001.txt"]


def alone(folder):
    os.dup2(os.open(folder / "stderr", os.O_CREAT | os.O_WRONLY), 2)
    with Watchdog(None, 0, ["node1"], folder, SILENT_S, 1.0, lambda text: (folder / "gave_up").write_text(text)) as watchdog:
        watchdog.set_stage("checkpoint", 7)
        wait_in_the_kernel()


def test_a_single_process_that_is_stuck_ends_too(tmp_path):
    process = FORK.Process(target=alone, args=(tmp_path,))
    process.start()
    process.join(30)
    assert process.exitcode == ABORTED
    sentence = r"no step was completed for \d+ s: the run on node1 is writing the checkpoint of step 7 for \d+ s"
    assert re.fullmatch(sentence, (tmp_path / "gave_up").read_text())
    assert "in wait_in_the_kernel" in (tmp_path / "stacks" / "rank-0000.txt").read_text()


def walk(folder):
    with Watchdog(None, 0, ["node1"], folder, SILENT_S, SILENT_S, lambda text: (folder / "gave_up").write_text(text)) as watchdog:
        for step in range(20):
            watchdog.set_stage("step", step)
            (folder / "begun").touch()
            time.sleep(0.05)
    os._exit(0)


def test_time_in_which_the_whole_process_was_stopped_is_not_counted(tmp_path):
    process = FORK.Process(target=walk, args=(tmp_path,))
    process.start()
    wait_for((tmp_path / "begun").exists)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(1.5 * SILENT_S)
    os.kill(process.pid, signal.SIGCONT)
    process.join(30)
    assert process.exitcode == 0 and not (tmp_path / "gave_up").exists()


def test_decoding_processes_do_not_notice_it_and_no_thread_stays(tmp_path):
    before = threading.active_count()
    with Watchdog(None, 0, ["node1"], tmp_path, SILENT_S, 60.0, pytest.fail) as watchdog:
        for step in range(3):
            watchdog.set_stage("data", step)
            time.sleep(0.3)
            assert [batch.item() for batch in DataLoader([1, 2, 3, 4], num_workers=2, multiprocessing_context="fork")] == [
                1,
                2,
                3,
                4,
            ]
    until = time.monotonic() + 20  # torch's own threads, which feed its workers, take a moment to end
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.05)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("watchdog")]
    assert threading.active_count() == before
    assert not multiprocessing.active_children()


def test_saying_where_one_is_costs_next_to_nothing(tmp_path):
    watchdog = Watchdog(None, 0, ["node1"], tmp_path, SILENT_S, None, pytest.fail)
    set_stage = inspect.unwrap(Watchdog.set_stage)  # without the check of its annotations

    def seconds(call):
        begun = time.process_time()
        for step in range(10000):
            call(watchdog, "step", step)
        return time.process_time() - begun

    rounds = [(seconds(set_stage), seconds(lambda *_: time.monotonic())) for _ in range(5)]
    assert min(ours / clock for ours, clock in rounds) < 20


def test_a_beat_travels_as_text():
    for reading in ("", "data worker 1 (process 7) has been reading sample number 3 of a b.tar for 4 s"):
        beat = Heartbeat(3, "data", 12, 4.5, reading)
        assert Heartbeat.decode(beat.encode()) == beat


def make_table(size=8, per_node=4, rank=0):
    return HeartbeatTable(rank, [f"node{1 + number // per_node}" for number in range(size)], 30.0, 1800.0)


def heartbeats(size, count=1, stage="step", step=13, seconds=1.0):
    return {rank: Heartbeat(count, stage, step, seconds) for rank in range(size)}


def test_a_whole_machine_that_went_is_one_sentence():
    table = make_table(12)
    table.update(heartbeats(12), 5.0)
    table.update(heartbeats(8, count=2), 30.0)
    assert table.describe_dead(34.0, 1.0) is None
    assert table.describe_dead(35.0, 1.0) == (
        "ranks 8-11 on node3: no heartbeat for 30 s, so it was killed, lost its machine, is stopped, or holds Python's lock "
        "(ranks 8-11 on node3 last heard of in step 13)"
    )


def test_one_that_left_without_the_others_is_told_from_the_dead():
    table = make_table(2)
    table.update(heartbeats(2) | {1: Heartbeat(1, GONE, 12, 0.0)}, 0.0)
    assert "left without the others" in table.describe_dead(31.0, 1.0)
    table.update({0: Heartbeat(2, "end", 13, 0.0)}, 31.0)
    assert table.describe_dead(62.0, 1.0) is None


def test_where_all_stand_at_one_place_the_sentence_says_so():
    table = make_table(2)
    table.update(heartbeats(2, stage="start", step=0, seconds=1801.0), 0.0)
    assert table.describe_stuck(1799.0) is None
    assert table.describe_stuck(1801.0) == (
        "no step was completed for 1801 s: ranks 0-1 on node1 are in its start (before its first step) for 1801 s"
    )


def test_who_waits_for_data_says_for_which():
    table = make_table(2)
    worker = "data worker 1 (process 7) has been reading sample number 3 of a.tar for 1801 s"
    table.update({0: Heartbeat(1, "step", 13, 1801.0), 1: Heartbeat(1, "data", 12, 1801.0, worker)}, 0.0)
    assert table.describe_stuck(1801.0) == (
        f"no step was completed for 1801 s: rank 1 on node1 is waiting for data since step 12 for 1801 s ({worker}); "
        "rank 0 on node1 is in step 13 for 1801 s"
    )


def test_each_shard_that_is_hashed_counts_as_a_step():
    table = make_table(1)
    table.update({0: Heartbeat(1, "hashes", 0, 0.0)}, 0.0)
    table.update({0: Heartbeat(2, "hashes", 0, 5.0)}, 1700.0)
    assert table.describe_stuck(1801.0) is None
    assert "comparing the hashes of the data" in table.describe_stuck(3500.0)


def test_many_places_are_not_all_named():
    table = make_table(8)
    table.update({rank: Heartbeat(1, "data", rank, 9.0) for rank in range(8)}, 0.0)
    text = table.describe_stuck(1900.0)
    assert text.startswith("no step was completed for 1900 s: rank 0 on node1 is waiting for data since step 0 for 9 s; rank 1")
    assert text.endswith("rank 3 on node1 is waiting for data since step 3 for 9 s; 4 more are elsewhere")


def test_spans():
    assert format_numbers([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
