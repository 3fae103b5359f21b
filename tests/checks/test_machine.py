"""What this machine lacks is said with numbers, and what to do."""

import resource
import shutil
from collections import namedtuple

import pytest
import torch

from jepa_pipeline.checks import machine
from jepa_pipeline.checks.result import Finding, as_finding, gravest, size
from jepa_pipeline.checks.machine import check_machine
from jepa_pipeline.config.errors import UserError

Usage = namedtuple("Usage", "total used free")
metadata = machine.importlib.metadata


def found(config=None, ranks=1, sharing=1):
    return {finding.name: finding for finding in check_machine(config, ranks, sharing)}


def test_this_machine_is_fine(tiny):
    for config in (None, tiny()):
        findings = found(config)
        assert list(findings) == ["python", "packages", "gpus", "cores", "shared memory", "open files"]
        assert {finding.level for finding in findings.values()} <= {"ok", "warn"}, findings
    assert torch.__version__ in findings["packages"].text


def test_versions_out_of_range_and_missing_packages_are_failures(monkeypatch):
    known, required = metadata.version, metadata.requires
    monkeypatch.setattr(metadata, "version", lambda name: "0.9.1" if name == "timm" else known(name))
    monkeypatch.setattr(metadata, "requires", lambda name: [*required(name), "no-such-thing>=2", 'absent; extra == "dev"'])
    finding = found()["packages"]
    (needed,) = (known for known in required("jepa_pipeline") if known.startswith("timm"))
    assert finding.level == "fail" and f"timm is 0.9.1, but {needed.removeprefix('timm')} is needed" in finding.text
    assert "no-such-thing is missing" in finding.text and "absent" not in finding.text and "pip install" in finding.cure


def test_an_old_python_is_a_failure(monkeypatch):
    monkeypatch.setattr(machine.platform, "python_version", lambda: "3.10.2")
    finding = found()["python"]
    assert finding.level == "fail" and "Python 3.10.2" in finding.text and ">=3.11" in finding.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPUs")
def test_a_recipe_for_gpus_needs_gpus(tiny):
    finding = found(tiny("trainer.accelerator=cuda"))["gpus"]
    assert finding.level == "fail" and "trainer.accelerator=auto" in finding.cure


def pretend_gpus(monkeypatch, taken=0.0, bf16=True):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA X100")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (int(80e9 * (1 - taken * index)), int(80e9)))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
    monkeypatch.setattr(machine.nccl, "version", lambda: (2, 27, 3))


def test_gpus_are_counted_and_named(tiny, monkeypatch):
    pretend_gpus(monkeypatch)
    finding = found(tiny("trainer.accelerator=cuda", "trainer.devices=2"))["gpus"]
    assert finding.level == "ok" and "2 x NVIDIA X100, 80 GB each" in finding.text and "NCCL 2.27.3" in finding.text


@pytest.mark.parametrize(
    ("changes", "pretence", "level", "text"),
    [
        (["trainer.devices=4"], {}, "fail", "trainer.devices is 4"),
        (["trainer.precision=bf16"], {"bf16": False}, "warn", "no bf16"),
        ([], {"taken": 0.5}, "warn", "of GPU 1 40 GB are taken"),
    ],
)
def test_gpus_that_do_not_suit_are_named(tiny, monkeypatch, changes, pretence, level, text):
    pretend_gpus(monkeypatch, **pretence)
    finding = found(tiny("trainer.accelerator=auto", *changes))["gpus"]
    assert finding.level == level and text in finding.text and finding.cure


def test_too_few_cores_are_a_warning(tiny, monkeypatch):
    monkeypatch.setattr(machine, "available_cores", lambda: 16)
    assert found(tiny("data.workers=15"))["cores"].level == "ok"
    finding = found(tiny("data.workers=15"), sharing=4)["cores"]
    assert finding.level == "warn" and "16 cores for 4 processes; 64 would be busy" in finding.text
    assert "data.workers=3" in finding.cure and "--cpus-per-task=16" in finding.cure


def test_little_shared_memory_is_a_warning(tiny, monkeypatch):
    monkeypatch.setattr(machine.Path, "is_dir", lambda _: True)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 << 20, 0, 64 << 20))
    assert found()["shared memory"].level == "warn" and "67.1 MB" in found()["shared memory"].text
    assert found(tiny("data.workers=2"))["shared memory"].level == "ok"
    config = tiny("data.workers=2", "optim.batch_size_global=80000", "optim.total_samples=160000")
    finding = found(config)["shared memory"]
    assert finding.level == "warn" and "614 MB" in finding.text and "--shm-size" in finding.cure  # 2 x 5 x 80000 x 3 x 16 x 16
    assert "307 MB" in found(config, ranks=4, sharing=2)["shared memory"].text


def test_few_open_files_are_a_warning(tiny, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 4096))
    finding = found(tiny())["open files"]
    assert finding.level == "warn" and "100 files" in finding.text and "ulimit -n 4096" in finding.cure
    assert found()["open files"].level == "warn"


def test_of_many_ranks_the_gravest_is_told_and_whose_it_is():
    good, bad = Finding("cores", "ok", "8 cores"), Finding("cores", "warn", "1 core", "more")
    (merged,) = gravest([[good], [good], [bad], [bad]], ["a", "a", "b", "c"])
    assert merged == Finding("cores", "warn", "1 core (rank 2; in all 2 of 4 ranks, on b, c)", "more")
    assert gravest([[good], [good]], ["a", "b"]) == [good]


def test_sizes_and_mistakes_in_words():
    assert [size(n) for n in (12, 1234, 67.1e6, 10.31e9, 2.5e12)] == ["12 bytes", "1.23 kB", "67.1 MB", "10.3 GB", "2.5 TB"]
    assert as_finding("x", UserError("a: b: do c")) == Finding("x", "fail", "a: b", "do c")
