"""The console of a run: a steady estimate of the whole, health beside the loss, and in words what is slow."""

import io
import os

import pytest
from rich.console import Console

from jepa_pipeline import console as printing
from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.console import LOG_LEVEL, describe_seconds, show_progress, track
from jepa_pipeline.data import worker_pool
from jepa_pipeline.data.worker_pool import available_cores, count_workers
from jepa_pipeline.probes.eval_loader import note_once
from jepa_pipeline.training import progress
from jepa_pipeline.training.processes import RankInfo
from jepa_pipeline.training.progress import MEASURED_STEPS, WARM_UP_STEPS, Pace, TrainingProgress, describe_health
from jepa_pipeline.training.setup import cure_for_waiting, limit_workers

ROW = {"loss": 0.5, "samples_per_s": 100.0, "data_wait_share": 0.1}
HEALTH = {"health/target_rankme": 30.0, "health/target_std_mean": 0.5, "health/target_cosine": 0.1}


@pytest.fixture(autouse=True)
def default_level(monkeypatch):
    monkeypatch.delenv(LOG_LEVEL, raising=False)


@pytest.fixture
def clock(monkeypatch):
    """A clock of the progress that the test sets."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

        def __getattr__(self, name):
            import time

            return getattr(time, name)

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def begin(total, terminal=False):
    out = io.StringIO()
    shown = TrainingProgress(Console(file=out, width=200, force_terminal=terminal), 0.0, "buy disks")
    shown.start(0, total)
    return shown, out


def test_the_first_steps_do_not_count_and_no_single_one_moves_the_estimate():
    pace, now = Pace(), 0.0
    for step in range(1, 101):
        now += 60.0 if step <= WARM_UP_STEPS else 1.0
        pace.add(now, 0.0)
    assert pace.step_s == 1.0
    pace.add(now + 10.0, 0.0)
    assert 1.0 < pace.step_s < 1.1


def test_the_estimate_follows_a_lasting_change():
    pace, now = Pace(), 0.0
    for _ in range(2 * progress.WINDOW_STEPS):
        pace.add(now, 0.0)
        now += 1.0
    for _ in range(2 * progress.WINDOW_STEPS):
        now += 3.0
        pace.add(now, 0.0)
    assert pace.step_s == 3.0


def test_after_ten_steps_the_time_of_the_first_and_of_the_whole_is_said_once(clock):
    shown, out = begin(1000)
    for step in range(1, 31):
        clock.now += 30.0 if step == 1 else 2.0
        shown.advance(0.0)
        assert ("first step" in out.getvalue()) == (step >= MEASURED_STEPS)
    (line,) = [line for line in out.getvalue().splitlines() if "first step" in line]
    assert line.startswith("first step after 30 s, now 2 s per step: about 33 min for the other 990 steps, until ")


def test_the_loss_has_health_beside_it_and_the_time_that_is_left(clock):
    shown, out = begin(100)
    shown.update(ROW, ROW)
    assert out.getvalue() == "step 0/100  loss 0.5000  100 samples/s  10% waiting for data\n"
    for _ in range(20):
        clock.now += 10.0
        shown.advance(0.0)
    shown.update(ROW, {**ROW, **HEALTH, "health/predictor_r2": 0.25})
    last = out.getvalue().splitlines()[-1]
    assert last == "step 20/100  loss 0.5000  rank 30, R2 0.25  100 samples/s  10% waiting for data  about 13 min left"
    assert describe_health(HEALTH | {"health/target_rankme": 1.2}) == "collapsed" and describe_health({}) == ""


def test_what_is_slow_is_said_in_words_and_not_at_every_row(clock):
    shown, out = begin(10_000)
    for step in range(2 * 3600):
        clock.now += 1.0
        shown.advance(0.61 * clock.now)
        if step % 20 == 0:
            shown.update(ROW, ROW)
    said = [line for line in out.getvalue().splitlines() if "buy disks" in line]
    assert said[0] == "waiting for data 61% of the time: buy disks"
    assert len(said) <= 1 + 2 * 3600 / progress.REPEAT_S
    fast, out = begin(10_000)
    for _ in range(100):
        clock.now += 1.0
        fast.advance(0.0)
    fast.update(ROW, ROW)
    assert "buy disks" not in out.getvalue()


def test_a_terminal_has_a_bar_with_the_same_estimate(clock):
    shown, out = begin(100, terminal=True)
    for _ in range(20):
        clock.now += 10.0
        shown.advance(0.0)
    shown.update(ROW, HEALTH)
    shown.stop()
    assert "about 13 min left" in out.getvalue() and "rank 30" in out.getvalue() and "20/100" in out.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_quiet_run_shows_no_progress(clock, monkeypatch, terminal):
    monkeypatch.setenv(LOG_LEVEL, "warning")
    shown, out = begin(100, terminal)
    for _ in range(20):
        clock.now += 10.0
        shown.advance(5.0)
        shown.update(ROW, ROW)
    shown.stop()
    assert not out.getvalue()


def test_a_run_says_all_of_it(tiny):
    out = io.StringIO()
    config = tiny("optim.total_samples=160", "log.every_steps=1", "health.every_steps=2", "data.workers=1")
    pretrain(config, Console(file=out, width=200))
    said = out.getvalue()
    assert "first step after" in said and "for the other 10 steps, until" in said
    assert "R2" in said and "step 20/20" in said


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.031, "0.031 s"), (9.5, "9.5 s"), (71, "71 s"), (130, "2 min"), (3 * 3600 + 1200, "3 h 20 min"), (200_000, "2 days 8 h")],
)
def test_durations_are_written_as_people_say_them(seconds, text):
    assert describe_seconds(seconds) == text


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(monkeypatch, capsys):
    assert [*track(range(5), "heads", 5)] == [*range(5)] and capsys.readouterr() == ("", "")
    monkeypatch.setattr(printing, "PRINT_INTERVAL_S", 0.0)
    with show_progress("heads", 5, done=2) as advance:
        advance(1)
    said = capsys.readouterr()
    assert not said.out and said.err.startswith("heads: 3 of 5, about ")
    monkeypatch.setenv(LOG_LEVEL, "warning")
    assert [*track(range(5), "heads", 5)] and capsys.readouterr() == ("", "")


def test_progress_is_a_bar_on_a_terminal_and_leaves_stdout_to_results(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert [*track(range(5), "heads", 5)] == [*range(5)]
    said = capsys.readouterr()
    assert not said.out and "heads" in said.err and "100%" in said.err


def test_heads_and_searches_are_counted_to_the_end(monkeypatch):
    import torch

    from jepa_pipeline.config.parse import load_overrides
    from jepa_pipeline.config.probe import ProbeConfig
    from jepa_pipeline.probes import pooled_probes
    from jepa_pipeline.probes.features import Features

    counted, totals = [], []

    class Shown:
        def __init__(self, title, total):
            totals.append(total)

        def __enter__(self):
            return counted.append

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(pooled_probes, "show_progress", Shown)
    config = load_overrides(ProbeConfig, ["iterations=1", "k=[1]", "features=[last]"])
    labels = torch.arange(40) % 2
    features = Features({"target": {"last": torch.randn(40, 4)}, "pixels": {"pixels": torch.randn(40, 12)}}, labels, [])
    pooled_probes.probe_features(["target", "pixels"], features, features, 2, None, 3, config)
    assert totals == [sum(counted)] and totals[0] > 2


def on_machine(monkeypatch, cores, variables=(), quota=None):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in dict(variables).items():
        monkeypatch.setenv(name, value)

    class Quota:
        def is_file(self):
            return quota is not None

        def read_text(self):
            return quota

    monkeypatch.setattr(worker_pool, "CGROUP_CORES", Quota())


@pytest.mark.parametrize(
    ("variables", "quota", "cores"),
    [({}, None, 16), ({"SLURM_CPUS_PER_TASK": "6"}, None, 6), ({}, "250000 100000\n", 3), ({}, "max 100000\n", 16),
     ({"SLURM_CPUS_PER_TASK": "64"}, None, 16)],
)  # fmt: skip
def test_cores_are_those_that_slurm_and_a_container_give(monkeypatch, variables, quota, cores):
    on_machine(monkeypatch, 16, variables, quota)
    assert available_cores() == cores


def test_there_are_never_more_workers_than_cores_and_it_is_said(monkeypatch):
    on_machine(monkeypatch, 4)
    said = []
    assert [count_workers(wanted, 1, said.append) for wanted in (0, 4)] == [0, 4] and not said
    assert count_workers(9, 1, said.append) == 4 and count_workers(9, 8, said.append) == 1
    assert said[0].startswith("9 data workers were asked for, but there are 4 cores: 4 are started")
    assert "4 cores and 8 processes: 1 are started" in said[1]


@pytest.mark.parametrize(
    ("launcher", "variables", "workers"),
    [
        (None, {}, 4),
        ("torchrun", {"SLURM_CPUS_PER_TASK": "8"}, 2),
        ("Slurm", {"SLURM_CPUS_PER_TASK": "8"}, 8),
        ("Slurm", {"SLURM_CPUS_ON_NODE": "64"}, 16),
        ("Slurm", {"SLURM_CPUS_ON_NODE": "16"}, 4),
    ],
)
def test_processes_share_the_cores_unless_srun_gave_each_its_own(monkeypatch, tiny, launcher, variables, workers):
    on_machine(monkeypatch, 16, variables)
    info = RankInfo(0, 4, 0, 4, "127.0.0.1", 0, launcher=launcher)
    assert limit_workers(tiny("data.workers=32"), info, lambda _: None).workers == workers


def test_the_cure_for_waiting_is_one_that_applies(monkeypatch, tiny):
    on_machine(monkeypatch, 4)
    alone = RankInfo(0, 1, 0, 1, "127.0.0.1", 0, launcher=None)
    assert cure_for_waiting(tiny(), 1, alone).startswith("raise data.workers (1 now, 4 cores), or store smaller images")
    assert "raise" not in cure_for_waiting(tiny(), 4, alone) and "smaller images" in cure_for_waiting(tiny(), 4, alone)
    assert cure_for_waiting(tiny("data.train=https://host/set"), 1, alone).startswith("copy the shards")


def test_a_probe_says_once_that_it_starts_fewer_workers(capsys):
    note_once.cache_clear()
    for _ in range(3):
        note_once("fewer")
    assert capsys.readouterr().out == "fewer\n"
