"""A disk that refuses a file, or memory that is not enough, is one sentence: which file, what is kept, what helps."""

import resource
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet
from rich.console import Console

from jepa_pipeline import cli
from jepa_pipeline.commands.export import export
from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.config.errors import CURES, OUT_OF_MEMORY, UserError, is_disk_error
from jepa_pipeline.data.unfinished import new_folder
from jepa_pipeline.data.writer import png_record, write_shards
from jepa_pipeline.probes.feature_file import write_features
from jepa_pipeline.probes.feature_rows import Row
from jepa_pipeline.probes.unfinished_features import unfinished_features, unfinished_folder
from jepa_pipeline.training.loggers import MetricsWriter, append_row

QUIET = Console(quiet=True)


@contextmanager
def file_limit(size):
    """Refuse to write files of more bytes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def main_with(monkeypatch, capsys, error):
    """Return the exit code and what is on stderr when a command raises an error."""

    def fail(args):
        raise error

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(cli, "was_distributed", lambda: False)  # as other tests in this process may have been
    monkeypatch.setattr(sys, "argv", ["jepa", "probe"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code, capsys.readouterr().err


@pytest.mark.parametrize("number", CURES)
def test_every_command_names_the_file_and_the_cure(monkeypatch, capsys, number):
    code, text = main_with(monkeypatch, capsys, OSError(number, "why", "runs/r/probes/demo.json"))
    assert code == 2 and text.startswith("runs/r/probes/demo.json could not be ") and text.count("\n") == 1
    assert f"written (why); what was complete before is as it was: {CURES[number]}, then run the same command again" in text


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory", "/tmp/x"),
    ],
)
def test_a_limit_of_memory_is_one_sentence_in_every_command(monkeypatch, capsys, error):
    assert main_with(monkeypatch, capsys, error) == (2, f"{OUT_OF_MEMORY}\n")


def test_other_errors_keep_their_traceback(monkeypatch, capsys):
    code, text = main_with(monkeypatch, capsys, ZeroDivisionError("by zero"))
    assert code == 1 and text.startswith("Traceback") and text.endswith("ZeroDivisionError: by zero\n")


def test_a_run_names_the_log_and_where_it_resumes(tiny, monkeypatch, tmp_path):
    original = MetricsWriter.write

    def write(self, row):
        with file_limit(100 if row["step"] == 4 else resource.RLIM_INFINITY):
            original(self, row)

    monkeypatch.setattr(MetricsWriter, "write", write)
    with pytest.raises(UserError) as refused:
        pretrain(tiny("checkpoint.every_steps=2", "checkpoint.background=false", "health.every_steps=6"), QUIET)
    path = tmp_path / "runs/tiny/metrics.jsonl"
    assert str(refused.value) == (
        f"{path} could not be written (File too large); the same command resumes from {tmp_path}/runs/tiny/checkpoints/step-00000002: "
        "raise the limit on the size of a file (ulimit -f), or write to a disk that takes larger ones, then run the same command again"
    )


def test_a_checkpoint_and_its_encoder_are_named(tiny, tmp_path):
    config = tiny()
    with (
        file_limit(20_000),
        pytest.raises(UserError, match=r"^checkpoint .*step-00000006 could not be written \(File too large\); the"),
    ):
        pretrain(config, QUIET)
    assert not list((config.folder / "checkpoints").iterdir()) and not (config.folder / "encoder").exists()


def test_a_full_disk_under_an_export_leaves_nothing(tiny):
    config = tiny("optim.total_samples=8", "optim.warmup_samples=0")
    pretrain(config, QUIET)
    with file_limit(20_000), pytest.raises(OSError, match="File too large") as refused:
        export(config.folder)
    assert "export/timm" in refused.value.filename and not list((config.folder / "export").iterdir())


def test_shards_that_do_not_fit_are_named(tmp_path):
    records = [png_record(f"{number}", Image.effect_noise((64, 64), 50).convert("RGB"), None) for number in range(4)]
    with file_limit(10_000), pytest.raises(OSError, match="File too large") as refused, new_folder(tmp_path / "out") as folder:
        write_shards(records, folder, classes=None, made={})
    assert refused.value.filename == str(tmp_path / "out") and not list(tmp_path.iterdir())


def test_a_line_that_is_written_in_part_is_named_and_hides_no_other(tmp_path):
    path = tmp_path / "damaged.jsonl"
    append_row(path, {"step": 1})
    with file_limit(14), pytest.raises(OSError, match="File too large") as refused:
        append_row(path, {"step": 2, "text": "x" * 100})
    assert refused.value.filename == str(path)


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_a_file_of_features_is_named_and_its_rows_are_kept(tmp_path, capsys, suffix):
    """A memory map would end the process with SIGBUS, which nothing can catch."""
    features = np.zeros((500, 8), np.float32)
    rows, plan, out = [Row(f"{number}", 0, None) for number in range(500)], {"encoder": "b"}, tmp_path / f"x{suffix}"

    def write(limit):
        with file_limit(limit), unfinished_features(out, plan) as unfinished:
            if not unfinished.rows.done:
                unfinished.rows.add(rows, np.random.default_rng(0).random(features.shape, np.float32))
            with unfinished.stage() as path:
                write_features(path, unfinished.rows, {"data": {"classes": None}})
            unfinished.publish()

    with pytest.raises(OSError, match="File too large") as refused:
        write(features.nbytes + 100)
    assert refused.value.filename == str(out) and is_disk_error(refused.value)
    assert "keeps 500 rows: the same command continues" in capsys.readouterr().out
    assert not (unfinished_folder(out) / "staged").exists()
    write(resource.RLIM_INFINITY)
    read = np.load(out) if suffix == ".npy" else np.array(parquet.read_table(out)["feature"].to_pylist(), np.float32)
    assert np.array_equal(read, np.random.default_rng(0).random(features.shape, np.float32))
