"""A terminal, pipe or log that goes away ends nothing; where the result is what was printed, the exit code says that it is lost."""

import errno
import io
import os
import pty
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from rich.console import Console

from jepa_pipeline.cli.end import exit_code
from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.console import LastingFile, keep_streams, lasting_streams, output_failure
from jepa_pipeline.training.signals import StopSignals, outlive_terminal, write_stderr
from jepa_pipeline.training.stacks import StacksFile


def broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def lost_terminal():
    master, terminal = pty.openpty()
    os.close(master)
    return terminal


SINKS = {"pipe": (broken_pipe, errno.EPIPE), "full disk": (lambda: os.open("/dev/full", os.O_WRONLY), errno.ENOSPC),
         "lost terminal": (lost_terminal, errno.EIO)}  # fmt: skip


@pytest.fixture(params=SINKS)
def sink(request):
    """A descriptor that cannot be written, and the number of its error."""
    make, number = SINKS[request.param]
    descriptor = make()
    yield descriptor, number
    os.close(descriptor)


def test_what_cannot_be_written_is_lost_and_no_error(sink):
    descriptor, number = sink
    file = LastingFile(descriptor, "wb", closefd=False)
    stream = io.TextIOWrapper(io.BufferedWriter(file), line_buffering=True)
    for _ in range(3):
        print("a line " * 5000, file=stream)
    Console(file=stream, force_terminal=True).print("[bold]rich")
    assert file.failure is not None and file.failure.errno == number


def test_a_full_pipe_that_does_not_block_is_waited_for():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    read = []
    thread = threading.Thread(target=lambda: read.append(sum(iter(lambda: len(os.read(reader, 1 << 16)), 0))))
    thread.start()
    with LastingFile(writer, "wb") as file:
        assert file.write(b"x" * 1_000_000) == 1_000_000 and file.failure is None
    thread.join()
    assert read == [1_000_000]
    os.close(reader)


@contextmanager
def standard_streams(descriptor):
    """Have stdout and stderr of this process be a descriptor, as Python opens them."""
    kept = {number: os.dup(number) for number in (1, 2)}
    before = sys.stdout, sys.stderr
    for number in kept:
        os.dup2(descriptor, number)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, "wb", closefd=False), "ascii", write_through=True) for number in kept
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for number, original in kept.items():
            os.dup2(original, number)
            os.close(original)


def test_a_run_goes_to_its_end_without_its_terminal(tiny, sink):
    config = tiny("log.every_steps=1")
    with standard_streams(sink[0]):
        with pytest.raises(UnicodeEncodeError):
            print("ü")
        with pytest.raises(OSError, match=os.strerror(sink[1])):
            print("u")
        pretrain(config)
        write_stderr("a signal's handler")
        before = sys.stdout
        with lasting_streams():
            print("ü")
            failure = output_failure()
        after = sys.stdout
    assert (config.folder / "checkpoints/step-00000006").is_dir()
    assert failure.errno == sink[1] and after is before


def test_streams_that_others_have_replaced_stay(monkeypatch):
    for stream in (io.StringIO(), io.TextIOWrapper(io.BytesIO())):
        monkeypatch.setattr(sys, "stdout", stream)
        keep_streams()
        assert sys.stdout is stream and output_failure() is None


@pytest.fixture
def hang_up():
    """SIGHUP as in a shell; this process may have been started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_hang_up_ends_no_run_and_nohup_stays_as_it_is(capfd, hang_up, tmp_path):
    with StopSignals(str, StacksFile(tmp_path / "stacks")):
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    assert f"the run continues without it; kill {os.getpid()} stops it with a checkpoint" in capfd.readouterr().err
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals(str, StacksFile(tmp_path / "stacks")):
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert outlive_terminal() is None


@pytest.mark.parametrize(
    ("arguments", "redirect", "code", "error"),
    [
        ("config show", ">/dev/full", 1, "standard output cannot be written (No space left on device)"),
        ("config show", "| true", 0, ""),
        ("config check nothing.yaml", ">/dev/full", 2, "nothing.yaml"),
    ],
)
def test_the_exit_code_stays_right(arguments, redirect, code, error):
    command = f"{sys.executable} -m jepa_pipeline {arguments} {redirect}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code and error in done.stderr and bool(error) == bool(done.stderr)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize(("arguments", "code"), [("submit probe runs/x --dry-run", 1), ("table runs/x", 1), ("probe runs/x", 0)])
def test_a_result_that_is_only_printed_and_lost_is_no_success(monkeypatch, arguments, code):
    monkeypatch.setattr("jepa_pipeline.console.output_failure", lambda: OSError(28, "No space left on device"))
    monkeypatch.setattr("sys.argv", ["jepa", *arguments.split()])
    assert exit_code(0) == code
