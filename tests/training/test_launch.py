"""Processes that are started together end together, whatever befalls one, and are started again as often as the recipe allows."""

import ctypes
import itertools
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from heartbeats import has_heard_from_all
from torch.distributed import PrefixStore, TCPStore

from jepa_pipeline.config.render import to_yaml
from jepa_pipeline.console import COMMAND
from jepa_pipeline.files import read_json_lines
from jepa_pipeline.training import launch
from jepa_pipeline.training.checkpoint import list_checkpoints
from jepa_pipeline.training.environment import describe_environment
from jepa_pipeline.training.launch import GRACE_S, ProcessGroup, launch_processes, start_processes
from jepa_pipeline.training.loggers import HASHES
from jepa_pipeline.training.processes import RankInfo
from jepa_pipeline.training.requeue import read_job_ends
from jepa_pipeline.training.restarts import COUNT, REASON
from jepa_pipeline.training.watchdog import ABORTED, Watchdog

FORK = multiprocessing.get_context("fork")
SILENT_S = 2.0
SLEEP = "exec sleep 1000"


def start(*scripts):
    """A group of shell scripts, one per rank."""
    group = ProcessGroup()
    group.start([(["sh", "-c", script], dict(os.environ)) for script in scripts])
    return group


@pytest.fixture
def patient(monkeypatch):
    monkeypatch.setattr(launch, "GRACE_S", 0.1)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("code", [0, ABORTED])
def test_whichever_rank_outlives_the_others_is_killed_even_if_it_is_stopped(patient, capfd, size, code):
    for stuck in range(size):
        group = start(*(SLEEP if rank == stuck else f"exit {code}" for rank in range(size)))
        os.kill(group.processes[stuck].pid, signal.SIGSTOP)
        assert group.wait(0.0, restarted=False) == (code or ABORTED)
        assert [process.returncode for process in group.processes] == [-9 if rank == stuck else code for rank in range(size)]
        assert f"rank {stuck} was still there" in capfd.readouterr().err


def test_the_first_failure_counts_and_a_signal_before_its_consequences(patient):
    group = start("kill -SEGV $$", "exit 1", "exit 3")
    while any(process.poll() is None for process in group.processes):
        time.sleep(0.01)
    assert group.wait(0.1, restarted=False) == 1
    assert group.failure == ("rank 0 was killed by SIGSEGV", -signal.SIGSEGV)


@pytest.mark.parametrize("stopped", [True, False])
def test_without_one_that_died_the_others_do_not_wait_if_nothing_is_left_to_save_or_say(stopped):
    group = start(SLEEP, SLEEP)
    group.stop = signal.SIGTERM if stopped else None
    group.processes[1].kill()
    assert group.wait(1000.0, restarted=not stopped) == 137
    assert [process.returncode for process in group.processes] == [-9, -9]


def test_a_process_that_even_a_kill_does_not_end_is_left_behind(patient, capfd):
    class Unkillable:
        pid, returncode = 77, None

        def poll(self): ...

        def kill(self): ...

    group = start("exit 5")
    group.processes.append(Unkillable())
    assert group.wait(0.1, restarted=False) == 5
    assert "the kernel does not end process 77" in capfd.readouterr().err


def test_a_stopped_process_does_not_outlive_a_stop_signal_for_long(patient, monkeypatch, capfd):
    monkeypatch.setattr(launch, "STOP_WITHIN_S", 0.1)
    group = start(SLEEP)
    os.kill(group.processes[0].pid, signal.SIGSTOP)
    group.stop = signal.SIGINT
    assert group.wait(1000.0, restarted=True) == ABORTED
    assert "a stop signal came, but rank 0 was still there 0.2 s later and is killed" in capfd.readouterr().err


def test_after_a_stop_signal_nothing_is_started(tmp_path):
    group = ProcessGroup()
    with group.pass_signals_on():
        os.kill(os.getpid(), signal.SIGTERM)
        group.start([(["touch", str(tmp_path / "started")], dict(os.environ))])
    assert group.wait(0.1, restarted=True) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def launched(tiny, monkeypatch, tmp_path):
    """A function that launches a run whose processes are shell scripts; its exit code and what each start of rank 0 was told."""

    def run(restarts, *scripts, after=lambda group: None):
        def start_processes(group, recipe, info, variables):
            # the others begin when rank 0 has spoken, which an early end of theirs would prevent
            tell = f'echo "${COUNT} ${REASON}" >> {tmp_path}/told; touch {tmp_path}/told${COUNT}; '
            wait = f"while ! [ -e {tmp_path}/told${COUNT} ]; do sleep 0.01; done; "
            commands = [["sh", "-c", (wait if rank else tell) + script] for rank, script in enumerate(scripts)]
            group.start([(command, os.environ | variables) for command in commands])
            after(group)

        monkeypatch.setattr(launch, "start_processes", start_processes)
        config = tiny(f"trainer.restarts={restarts}", f"trainer.devices={len(scripts)}")
        code = launch_processes(config, RankInfo(0, len(scripts), 0, len(scripts), "127.0.0.1", 0, None))
        return code, (tmp_path / "told").read_text().splitlines()

    return run


def test_a_dead_rank_is_replaced_and_the_next_start_is_told_why(launched):
    code, told = launched(3, "exit 0", f'[ "${COUNT}" = 2 ] || kill -9 $$')
    assert code == 0
    killed = "rank 1 was killed by SIGKILL, perhaps by the system for lack of memory"
    assert told == ["0 ", f"1 {killed}", f"2 {killed}"]


def test_restarts_are_bounded(launched):
    code, told = launched(2, "exit 1", "exit 0")
    assert code == 1 and told == ["0 ", "1 rank 0 ended with exit code 1", "2 rank 0 ended with exit code 1"]


@pytest.mark.parametrize("script", ["exit 0", "exit 2", "exit 75", "exit 130", "exit 70", "kill -TERM $$"])
def test_success_a_mistake_and_a_stop_are_not_restarted(launched, script):
    _, told = launched(5, script, "exit 0")
    assert len(told) == 1


def test_a_stopped_run_is_not_restarted_however_its_processes_end(launched):
    def stop(group):
        while group.processes[0].poll() is None:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    code, told = launched(5, "exit 9", SLEEP, after=stop)
    assert code == 9 and told == ["0 "]


class Forked:
    """A forked process, with what the launcher uses of subprocess.Popen."""

    def __init__(self, *arguments):
        self.process = FORK.Process(target=rank_of_a_run, args=arguments)
        self.process.start()
        self.pid, self.kill = self.process.pid, self.process.kill

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.returncode


HANG_S = 1000
"""Many times what it takes to notice and to end a group, a few times silent_s."""


def rank_of_a_run(rank, size, port, folder, hangs):
    """Steps of 50 ms under a watchdog, in one of which this process may keep Python's lock for ever."""
    os.dup2(os.open(folder / f"stderr{rank}", os.O_CREAT | os.O_WRONLY), 2)
    server = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False) if rank == 0 else None
    store = PrefixStore("watch", server or TCPStore("127.0.0.1", port, is_master=False))
    with Watchdog(store, rank, ["node1"] * size, folder, SILENT_S, None, lambda text: None) as watchdog:
        for step in itertools.count():
            watchdog.set_stage("step", step)
            time.sleep(0.05)
            if step >= 10 and not (folder / f"ready{rank}").exists() and has_heard_from_all(watchdog):
                (folder / f"ready{rank}").touch()
                if hangs:
                    ctypes.PyDLL(None).sleep(HANG_S)


GROUPS = [(2, rank, act) for rank in range(2) for act in ("stop", "kill", "hang")] + [(4, 0, "stop"), (4, 3, "kill")]


def test_a_group_of_which_one_is_stopped_killed_or_hangs_ends_whole(tmp_path, monkeypatch):
    """With real watchdogs; test_real_runs_end_whole does it with whole runs. Without them it would end after the time of a hang."""
    monkeypatch.setattr(launch, "GRACE_S", 2 * SILENT_S)
    groups, ports = {}, iter(launch.free_port() for _ in GROUPS)
    for case in GROUPS:
        size, victim, act = case
        folder = tmp_path / "-".join(map(str, case))
        folder.mkdir()
        group, port = ProcessGroup(), next(ports)
        group.processes = [Forked(rank, size, port, folder, act == "hang" and rank == victim) for rank in range(size)]
        groups[case] = folder, group
    for (_, victim, act), (folder, group) in groups.items():
        while len(list(folder.glob("ready*"))) < len(group.processes):
            time.sleep(0.02)
        if act != "hang":
            os.kill(group.processes[victim].pid, signal.SIGSTOP if act == "stop" else signal.SIGKILL)
    begun = time.monotonic()
    with ThreadPoolExecutor(len(groups)) as threads:
        codes = dict(zip(groups, threads.map(lambda of: of[1].wait(SILENT_S, restarted=False), groups.values()), strict=True))
    assert codes == dict.fromkeys(groups, ABORTED)
    assert not [case for case, (_, group) in groups.items() if None in [process.returncode for process in group.processes]]
    assert time.monotonic() - begun < HANG_S / 2


PATCHED = """
import ctypes, importlib.abc, importlib.util, os, sys, time

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "jepa_pipeline.training.module":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (load(module), patch(module.Pretraining))
        return spec

def patch(Pretraining):
    original = Pretraining.training_step
    def training_step(self, *arguments):
        how, rank = os.environ["HANGS"].split()
        if self.step == 7 and rank == os.environ["RANK"]:
            open(os.environ["HUNG"], "w").close()
            ctypes.PyDLL(None).sleep(1000) if how == "lock" else time.sleep(1000)
        return original(self, *arguments)
    Pretraining.training_step = training_step

if "RANK" in os.environ:
    sys.meta_path.insert(0, Finder())
"""
REAL = ["optim.total_samples=160000", "checkpoint.every_steps=5", "log.hashes_every_steps=1", "data.workers=1"]


def launch_real(config, folder, *command, **environment):
    """The process that starts those of a run, in a session that can be killed as a whole."""
    (folder / "recipe.yaml").write_text(to_yaml(config))
    command = [*(command or (sys.executable,)), "-m", "jepa_pipeline", "pretrain", str(folder / "recipe.yaml")]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def wait_until(condition, process):
    while not condition():
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.05)


def children(pid):
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def ranks_of(pid):
    """The processes below one that are ranks, by their rank."""
    variables = {child: Path(f"/proc/{child}/environ").read_bytes().split(b"\0") for child in children(pid)}
    return {int(item[5:]): child for child, items in variables.items() for item in items if item.startswith(b"RANK=")}


def descendants(pid):
    return [*children(pid), *(below for child in children(pid) for below in descendants(child))]


CASES = [
    (size, strategy, act, victim)
    for size in (2, 4)
    for strategy in ("ddp", "fsdp2")
    for act in ("stop", "kill", "lock", "wait")
    for victim in range(size)
]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "strategy", "act", "victim"), CASES)
def test_real_runs_end_whole(tiny, tmp_path, size, strategy, act, victim):
    """Each rank in turn is stopped, killed, or hangs with or without Python's lock: all is over within a few times silent_s."""
    silent_s = GRACE_S / 3
    config = tiny(*REAL, f"trainer.devices={size}", f"trainer.strategy={strategy}", f"trainer.silent_s={silent_s}",
                  *([f"trainer.stuck_s={2 * silent_s}"] if act == "wait" else []))  # fmt: skip
    patch = {}
    if act in ("lock", "wait"):
        (tmp_path / "patch").mkdir()
        (tmp_path / "patch" / "sitecustomize.py").write_text(PATCHED)
        path = os.pathsep.join([str(tmp_path / "patch"), *filter(None, [os.environ.get("PYTHONPATH")])])
        patch = {"PYTHONPATH": path, "HANGS": f"{act} {victim}", "HUNG": str(tmp_path / "hung")}
    process = launch_real(config, tmp_path, **patch)
    try:
        if patch:
            wait_until((tmp_path / "hung").exists, process)
        else:
            wait_until(lambda: list_checkpoints(config.folder / "checkpoints"), process)
            time.sleep(silent_s)  # by when all have heard of all: a process that nobody has heard of yet has START_S more
        below = descendants(process.pid)
        if not patch:
            os.kill(ranks_of(process.pid)[victim], signal.SIGSTOP if act == "stop" else signal.SIGKILL)
        begun = time.monotonic()
        # stuck_s is two, to notice takes one and a little, the grace is three and one to notice, and one is left for a busy machine
        code = process.wait(8 * silent_s)
        said = (tmp_path / "log").read_text()
        print(f"{size} {strategy} {act} {victim}: {(time.monotonic() - begun) / silent_s:.1f} silent_s")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert code == ABORTED, said
    named = "no step was completed for" if act == "wait" else rf"rank {victim} on .*(no heartbeat|is in step 8)"
    assert re.search(named, said), said
    while (left := [pid for pid in below if Path(f"/proc/{pid}").exists()]) and time.monotonic() < begun + 8 * silent_s:
        time.sleep(0.05)
    assert not left, "left behind"


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("launcher", ["own", "torchrun", "alone"])
def test_a_dead_rank_is_replaced_in_place_and_the_run_is_the_run_left_alone(tiny, tmp_path, launcher, victim):
    short = [*REAL, "optim.total_samples=320", "trainer.restarts=2", "trainer.silent_s=10"]
    devices = [] if launcher == "alone" else ["trainer.devices=2"]
    if launcher == "alone" and victim:
        pytest.skip("there is only one")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2"]
    command = torchrun if launcher == "torchrun" else []
    straight, killed = (tiny(*short, *devices, f"name={name}") for name in ("straight", "killed"))
    process = launch_real(straight, tmp_path, *command)
    assert process.wait() == 0, (tmp_path / "log").read_text()
    process = launch_real(killed, tmp_path, *command)
    try:
        for count in (1, 2):
            steps = 5 * count
            wait_until(lambda steps=steps: len(list((killed.folder / "checkpoints").glob(f"step-{steps:08d}"))), process)
            os.kill(ranks_of(process.pid)[victim], signal.SIGKILL)
            wait_until(lambda count=count: len(read_job_ends(killed.folder)) == count, process)
        assert process.wait() == 0, (tmp_path / "log").read_text()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert read_json_lines(killed.folder / HASHES) == read_json_lines(straight.folder / HASHES)
    ends = read_job_ends(killed.folder)
    assert [(end.in_place, end.requeued) for end in ends] == [(1, False), (2, False)], json.dumps(ends)
    assert all(end.saved >= 5 and end.step >= end.saved and end.reason for end in ends)


def test_a_run_knows_the_command_that_began_it_and_no_secret_of_it(monkeypatch):
    given = []
    monkeypatch.setattr("sys.argv", ["jepa", "pretrain", "recipe.yaml", "data.train=https://me:hunter2secret@host/x"])
    monkeypatch.setattr(ProcessGroup, "start", lambda group, commands, descriptors=(): given.extend(commands))
    start_processes(ProcessGroup(), (7,), RankInfo(0, 2, 0, 2, "127.0.0.1", 0, None), {})
    monkeypatch.setenv(COMMAND, given[0][1][COMMAND])
    monkeypatch.setattr("sys.argv", given[0][0])
    assert describe_environment()["command"] == ["jepa", "pretrain", "recipe.yaml", "data.train=https://host/x"]
