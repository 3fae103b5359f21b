"""Leaving in order: a signal sets a flag, the run ends at the next step boundary with a checkpoint, and goes on from there."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from rich.console import Console
from warm_process import WarmJepa

from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.config.errors import Interrupted, UserError
from jepa_pipeline.config.render import to_yaml
from jepa_pipeline.files import read_json_lines
from jepa_pipeline.training import callbacks, signals
from jepa_pipeline.training.checkpoint import list_checkpoints, load_latest, step_of
from jepa_pipeline.training.loggers import HASHES

QUIET = Console(quiet=True)
LONG = ["optim.total_samples=8000000", "log.hashes_every_steps=1", "checkpoint.every_steps=1000000"]
HASHED = ["log.hashes_every_steps=1", "optim.accumulate_steps=2", "checkpoint.every_steps=100"]


def signal_in(monkeypatch, step, *numbers):
    """Send the process signals in the middle of a step, between its two parts."""
    original = callbacks.DataWaitTimer.on_train_batch_start
    left = list(numbers)

    def hook(self, trainer, module, batch, batch_idx):
        original(self)
        if module.step == step - 1 and batch_idx % 2 and left:
            os.kill(os.getpid(), left.pop(0))

    monkeypatch.setattr(callbacks.DataWaitTimer, "on_train_batch_start", hook)
    monkeypatch.setattr(signals, "LITTLE_TO_LOSE_S", 0.0)  # a slow machine may take long for a step


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_run_at_the_step_boundary_and_nothing_is_lost(tiny, monkeypatch, capfd, number):
    straight, config = tiny("name=straight", *HASHED), tiny("name=stopped", *HASHED)
    pretrain(straight, QUIET)
    before = [signal.getsignal(other) for other in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with monkeypatch.context() as patch:
        signal_in(patch, 3, number)
        with pytest.raises(
            Interrupted,
            match=f"{number.name}: stopped cleanly after step 3 and saved a checkpoint; the same command resumes from .*/step-00000003",
        ):
            pretrain(config, QUIET)
    assert [signal.getsignal(other) for other in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before
    said = f"{number.name}: nothing is saved yet: stopping after this step with a checkpoint; Ctrl-C again stops at once"
    assert said in capfd.readouterr().err
    assert [step_of(path) for path in list_checkpoints(config.folder / "checkpoints")] == [3]
    pretrain(config, QUIET)
    assert read_json_lines(config.folder / HASHES) == read_json_lines(straight.folder / HASHES)


def test_asked_during_the_last_step_the_run_is_simply_finished(tiny, monkeypatch):
    config = tiny(*HASHED)
    signal_in(monkeypatch, config.optim.total_steps, signal.SIGTERM)
    pretrain(config, QUIET)
    assert load_latest(config.folder / "checkpoints", log=pytest.fail).info.step == config.optim.total_steps


def test_asked_before_the_first_step_it_says_so(tiny, monkeypatch):
    config = tiny(*HASHED)
    original = callbacks.MetricsLogger.on_train_start
    monkeypatch.setattr(
        callbacks.MetricsLogger, "on_train_start", lambda *them: (original(*them), os.kill(os.getpid(), signal.SIGINT))
    )
    with pytest.raises(
        Interrupted, match="SIGINT: stopped cleanly before the first step; nothing is saved yet, so the same command starts over"
    ):
        pretrain(config, QUIET)
    assert not (config.folder / "checkpoints").exists()


@pytest.mark.parametrize("step", [1, 4])
def test_before_its_first_step_a_run_leaves_at_once_and_has_lost_nothing(tiny, monkeypatch, capfd, step):
    """Step 4 is the first one of a process that has resumed from step 3."""
    straight, config = tiny("name=straight", *HASHED), tiny("name=stopped", *HASHED)
    pretrain(straight, QUIET)
    if step > 1:
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            signal_in(patch, step - 1, signal.SIGTERM)
            pretrain(config, QUIET)
    with monkeypatch.context() as patch:
        signal_in(patch, step, signal.SIGINT)
        where, restart = "before the first step", "nothing is saved yet, so the same command starts over"
        if step > 1:
            where = f"after step {step - 1} and saved a checkpoint"
            restart = f"the same command resumes from {config.folder}/checkpoints/step-{step - 1:08d}"
        with pytest.raises(Interrupted, match=f"SIGINT: stopped cleanly {where}; {restart}"):
            pretrain(config, QUIET)
    assert f"SIGINT: stopping before the first step; {restart}" in capfd.readouterr().err
    assert [step_of(path) for path in list_checkpoints(config.folder / "checkpoints")] == ([step - 1] if step > 1 else [])
    pretrain(config, QUIET)
    assert read_json_lines(config.folder / HASHES) == read_json_lines(straight.folder / HASHES)


def test_a_first_step_that_cannot_be_interrupted_ends_soon_after_ctrl_c(tiny, tmp_path):
    """A single long operation of torch holds off every signal handler of Python; here a sleep does that swallows the exception."""
    stuck = f"""
import time
import jepa_pipeline.training.signals as signals
signals.LEAVE_WITHIN_S = 0.3
from jepa_pipeline.training.module import Pretraining
def training_step(self, batch, batch_idx):
    open({str(tmp_path / "begun")!r}, "w").close()
    end = time.monotonic() + 600
    while time.monotonic() < end:
        try:
            time.sleep(1)
        except BaseException:
            pass
Pretraining.training_step = training_step
"""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(tiny(*LONG)))
    process = WarmJepa(["pretrain", recipe], before=stuck)
    while not (tmp_path / "begun").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 75, stderr
    assert "SIGINT: stopped cleanly before the first step; nothing is saved yet, so the same command starts over" in stderr
    assert "Thread" not in stderr


STUCK_STEP = """
import time
import jepa_pipeline.training.signals as signals
signals.LEAVE_WITHIN_S, signals.LITTLE_TO_LOSE_S = 0.3, {worth}
from jepa_pipeline.training.module import Pretraining
original = Pretraining.training_step
def training_step(self, batch, batch_idx):
    if self.step < 3:
        return original(self, batch, batch_idx)
    open({begun!r}, "w").close()
    end = time.monotonic() + {seconds}
    while time.monotonic() < end:
        try:
            time.sleep(0.1)
        except BaseException:
            pass
    return original(self, batch, batch_idx)
Pretraining.training_step = training_step
"""


@pytest.mark.parametrize("saved", [False, True])
def test_soon_after_the_start_or_a_checkpoint_ctrl_c_waits_for_no_long_step(tiny, tmp_path, saved):
    begun = tmp_path / "begun"
    config = tiny(*LONG, *(["checkpoint.every_steps=2"] if saved else []))
    process = launch(config, tmp_path, STUCK_STEP.format(worth=1e9, begun=str(begun), seconds=600), steps=9, until=begun.exists)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    where = f"the same command resumes from {config.folder}/checkpoints/step-00000002"
    restart = where if saved else "nothing is saved yet, so the same command starts over"
    assert f"SIGINT: stopped within a step; {restart}" in stderr and "Thread" not in stderr


def test_training_that_is_worth_it_is_saved_at_the_end_of_the_step(tiny, tmp_path):
    begun, config = tmp_path / "begun", tiny(*LONG)
    process = launch(config, tmp_path, STUCK_STEP.format(worth=0, begun=str(begun), seconds=2), steps=9, until=begun.exists)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 75, stderr
    assert "SIGINT: stopped cleanly after step 4 and saved a checkpoint" in stderr
    assert [step_of(path) for path in list_checkpoints(config.folder / "checkpoints")] == [4]


def launch(config, tmp_path, before="", steps=2, until=lambda: False):
    """Return the process of a run that has taken `steps` steps, or has ended."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(config))
    process = WarmJepa(["pretrain", recipe], before=before)
    while len(read_json_lines(config.folder / HASHES)) < steps and not until() and process.poll() is None:
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("workers", [0, 2])
def test_slurms_term_to_every_process_of_the_job_ends_it_in_order(tiny, tmp_path, workers):
    config = tiny(*LONG, f"data.workers={workers}")
    process = launch(config, tmp_path)
    os.killpg(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 75, stderr
    assert "Traceback" not in stderr
    stopped = int(re.search(r"SIGTERM: stopped cleanly after step (\d+)", stderr).group(1))
    assert load_latest(config.folder / "checkpoints", log=pytest.fail).info.step == stopped


SLOW_SAVE = """
import time
from jepa_pipeline.training.async_save import AsyncCheckpointWriter
AsyncCheckpointWriter.write = lambda *_: time.sleep(600)
"""


def test_a_second_ctrl_c_ends_it_at_once(tiny, tmp_path):
    process = launch(tiny(*LONG, "data.workers=1"), tmp_path, SLOW_SAVE)
    process.send_signal(signal.SIGINT)
    while "Ctrl-C again stops at once" not in (process.printed / "stderr").read_text() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(2 * signals.SAME_CTRL_C_S)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 130 and "stopped at once" in stderr and "Traceback" not in stderr


HANGING_SAVE = """
import threading
import time
import jepa_pipeline.training.signals as signals
from jepa_pipeline.training.async_save import AsyncCheckpointWriter

signals.STOP_WITHIN_S = 2.0
begun, force_exit = threading.Event(), signals.StopSignals.force_exit
AsyncCheckpointWriter.write = lambda *_: (begun.set(), time.sleep(600))
signals.StopSignals.force_exit = lambda self: (begun.wait(), force_exit(self))  # on a slow machine the step may take longer
"""


def test_a_save_that_hangs_is_ended_by_the_clock(tiny, tmp_path):
    config = tiny(*LONG)
    process = launch(config, tmp_path, HANGING_SAVE)
    process.send_signal(signal.SIGUSR1)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 70
    file = config.folder / "stacks/rank-0000.txt"
    assert "stopping took longer than 2 s: ended by force; nothing is saved yet, so the same command starts over" in stderr
    assert f"Where every thread was: {file}" in stderr and "Thread" not in stderr
    assert "in save" in file.read_text()


def test_a_decoding_process_that_is_killed_is_one_sentence(tiny, tmp_path):
    process = launch(tiny(*LONG, "data.workers=1"), tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 2, stderr
    assert "a data worker died after step" in stderr and "nothing is saved yet" in stderr
    assert "Traceback" not in stderr


def test_a_worker_that_dies_while_it_sends_a_batch_is_one_sentence_too(tiny, monkeypatch):
    """The connection through which it shares memory then ends with an EOFError, whose message is empty."""

    def _try_get_data(*_):
        raise EOFError

    monkeypatch.setattr("torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data", _try_get_data)
    with pytest.raises(UserError, match=r"a data worker died after step 0 \(EOFError\)"):
        pretrain(tiny("data.workers=1"), QUIET)


def test_a_worker_that_dies_before_the_loop_has_begun_is_one_sentence_too(tiny, monkeypatch):
    """torch raises from a signal handler, wherever that is; Lightning's teardown of a loop that has not begun then fails too."""

    def fit(*_):
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
        finally:
            raise RuntimeError("Please call `iter(combined_loader)` first.")

    monkeypatch.setattr("lightning.pytorch.Trainer.fit", fit)
    with pytest.raises(UserError, match=r"a data worker died after step 0 \(DataLoader worker \(pid 7\) is killed"):
        pretrain(tiny(), QUIET)


STALLED = """
import time
from jepa_pipeline.data.shards import Shards

read = Shards.read


def stall(self, shard, member):
    stall.reads = getattr(stall, "reads", 0) + 1
    if stall.reads > 24:
        time.sleep(600)
    return read(self, shard, member)


Shards.read = stall
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_waits_for_data_leaves_without_it(tiny, tmp_path, workers):
    """Between two steps everything can be saved, so a server that stalls costs nothing."""
    config = tiny(*LONG, f"data.workers={workers}")
    process = launch(config, tmp_path, STALLED, steps=3)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 75, stderr
    assert "SIGTERM: stopped cleanly after step 3 and saved a checkpoint" in stderr and "Traceback" not in stderr
    assert load_latest(config.folder / "checkpoints", log=pytest.fail).info.step == 3


def test_workers_are_gone_with_a_killed_parent(tiny, tmp_path):
    process = launch(tiny(*LONG, "data.workers=2"), tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.communicate(timeout=600)
    assert len(children) == 2
    while any(alive(pid) for pid in children):  # a hang is ended by the time limit of the suite
        time.sleep(0.05)


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
