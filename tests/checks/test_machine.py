"""What this machine lacks is reported with numbers and a cure."""

import resource
import shutil
from collections import namedtuple

import pytest
import torch

from jepa_pipeline.checks import machine, recipe
from jepa_pipeline.checks.machine import check_machine
from jepa_pipeline.checks.result import CheckResult, format_bytes, from_error, merge_ranks
from jepa_pipeline.commands.check_config import check_config
from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.config.errors import UserError

Usage = namedtuple("Usage", "total used free")
metadata = machine.importlib.metadata


def run(config=None, ranks=1, local_ranks=1):
    return {result.name: result for result in check_machine(config, ranks, local_ranks)}


def test_this_machine_is_fine(tiny):
    for config in (None, tiny()):
        results = run(config)
        assert list(results) == ["python", "packages", "gpus", "cores", "shared memory", "open files"]
        assert {result.level for result in results.values()} <= {"ok", "warn"}, results
    assert torch.__version__ in results["packages"].text


def test_versions_out_of_range_and_missing_packages_are_failures(monkeypatch):
    known, required = metadata.version, metadata.requires
    monkeypatch.setattr(metadata, "version", lambda name: "0.9.1" if name == "timm" else known(name))
    monkeypatch.setattr(metadata, "requires", lambda name: [*required(name), "no-such-thing>=2", 'absent; extra == "dev"'])
    result = run()["packages"]
    (needed,) = (known for known in required("jepa_pipeline") if known.startswith("timm"))
    assert result.level == "fail" and f"timm is 0.9.1, but {needed.removeprefix('timm')} is needed" in result.text
    assert "no-such-thing is missing" in result.text and "absent" not in result.text and "pip install" in result.cure


def test_an_old_python_is_a_failure(monkeypatch):
    monkeypatch.setattr(machine.platform, "python_version", lambda: "3.10.2")
    result = run()["python"]
    assert result.level == "fail" and "Python 3.10.2" in result.text and ">=3.11" in result.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPUs")
def test_a_recipe_for_gpus_needs_gpus(tiny):
    result = run(tiny("trainer.accelerator=cuda"))["gpus"]
    assert result.level == "fail" and "trainer.accelerator=auto" in result.cure


def pretend_gpus(monkeypatch, taken=0.0, bf16=True):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA X100")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (int(80e9 * (1 - taken * index)), int(80e9)))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
    monkeypatch.setattr(machine.nccl, "version", lambda: (2, 27, 3))


def test_gpus_are_counted_and_named(tiny, monkeypatch):
    pretend_gpus(monkeypatch)
    result = run(tiny("trainer.accelerator=cuda", "trainer.devices=2"))["gpus"]
    assert result.level == "ok" and "2 x NVIDIA X100, 80 GB each" in result.text and "NCCL 2.27.3" in result.text


@pytest.mark.parametrize(
    ("changes", "pretence", "level", "text"),
    [
        (["trainer.devices=4"], {}, "fail", "trainer.devices is 4"),
        (["trainer.precision=bf16"], {"bf16": False}, "warn", "no bf16"),
        ([], {"taken": 0.5}, "warn", "40 GB of GPU 1 are in use"),
    ],
)
def test_gpus_that_do_not_suit_are_named(tiny, monkeypatch, changes, pretence, level, text):
    pretend_gpus(monkeypatch, **pretence)
    result = run(tiny("trainer.accelerator=auto", *changes))["gpus"]
    assert result.level == level and text in result.text and result.cure


def test_too_few_cores_are_a_warning(tiny, monkeypatch):
    monkeypatch.setattr(machine, "available_cores", lambda: 16)
    assert run(tiny("data.workers=15"))["cores"].level == "ok"
    result = run(tiny("data.workers=15"), local_ranks=4)["cores"]
    assert result.level == "warn" and "16 cores for 4 processes; 64 would be busy" in result.text
    assert "data.workers=3" in result.cure and "--cpus-per-task=16" in result.cure


def test_too_little_shared_memory_is_said_before_a_run_begins(tiny, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 << 20, 0, 64 << 20))
    assert run()["shared memory"].level == "warn" and "67.1 MB" in run()["shared memory"].text
    assert run(tiny("data.workers=2"))["shared memory"].level == "ok"
    config = tiny("data.workers=2", "optim.batch_size_global=80000", "optim.total_samples=160000")
    result = run(config)["shared memory"]
    # two workers load four batches ahead each, and training holds two: 10 x 80000 x 3 x 16 x 16
    assert result.level == "fail" and "614 MB" in result.text and "--shm-size" in result.cure
    assert "307 MB" in run(config, ranks=4, local_ranks=2)["shared memory"].text
    with pytest.raises(
        UserError, match=r"67.1 MB of 67.1 MB are free in /dev/shm; waiting batches take up to about 614 MB: enlarge"
    ):
        pretrain(config)
    check_config(config)
    assert "warning: 67.1 MB of 67.1 MB are free in /dev/shm" in capsys.readouterr().err
    monkeypatch.setattr(recipe, "has_gpu", lambda _: True)
    assert "246 MB" in run(config)["shared memory"].text  # a GPU's batches are copied as they come: 2 + 2 of them


def test_few_open_files_are_a_warning(tiny, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 4096))
    result = run(tiny())["open files"]
    assert result.level == "warn" and "100 files" in result.text and "ulimit -n 4096" in result.cure
    assert run()["open files"].level == "warn"


def test_of_many_ranks_the_most_severe_result_is_reported_with_its_ranks():
    good, bad = CheckResult("cores", "ok", "8 cores"), CheckResult("cores", "warn", "1 core", "more")
    (merged,) = merge_ranks([[good], [good], [bad], [bad]], ["a", "a", "b", "c"])
    assert merged == CheckResult("cores", "warn", "1 core (rank 2; 2 of 4 ranks, on b, c)", "more")
    assert merge_ranks([[good], [good]], ["a", "b"]) == [good]


def test_sizes_and_errors_in_words():
    assert [format_bytes(n) for n in (12, 1234, 67.1e6, 10.31e9, 2.5e12)] == ["12 bytes", "1.23 kB", "67.1 MB", "10.3 GB", "2.5 TB"]
    assert from_error("x", UserError("a: b: do c")) == CheckResult("x", "fail", "a: b", "do c")
