"""Checks of this machine: versions, GPUs, CPU cores, shared memory and open files."""

import importlib.metadata
import os
import platform
import resource
import shlex
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from torch.cuda import nccl

from jepa_pipeline.checks.recipe import check_shared_memory, compare_cores
from jepa_pipeline.checks.result import CheckResult, format_bytes
from jepa_pipeline.config.data import WINDOW_SHARDS
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.trainer import TrainerConfig
from jepa_pipeline.data.worker_pool import available_cores

PACKAGE = "jepa_pipeline"
SHOWN = ("torch", "lightning", "timm")
MIN_OPEN_FILES, BASE_OPEN_FILES = 1024, 128
"""Files that any run needs, and those that Python and its libraries have open."""
MAX_GPU_USE = 0.1
"""Share of a GPU's memory in use above which another program runs on it."""


def check_machine(config: RunConfig | None, ranks: int, local_ranks: int) -> list[CheckResult]:
    """Return results with the same names in the same order on every machine.

    Args:
        config: the run; None: no run.
        ranks: processes of the run.
        local_ranks: those that share this process's cores.
    """
    return [
        check_python(),
        check_packages(),
        check_gpus(config.trainer if config else None),
        check_cores(config, local_ranks),
        check_shared_memory(config, ranks, local_ranks),
        check_open_files(config),
    ]


def check_python() -> CheckResult:
    supported, version = SpecifierSet(importlib.metadata.metadata(PACKAGE)["Requires-Python"]), platform.python_version()
    if supported.contains(version, prereleases=True):
        return CheckResult("python", "ok", f"Python {version}")
    cure = "create an environment with a supported Python"
    return CheckResult("python", "fail", f"Python {version}, but {PACKAGE} needs {supported}", cure)


def check_packages() -> CheckResult:
    """Check that every dependency is installed in a supported version."""
    problems, wanted = [], []
    for line in importlib.metadata.requires(PACKAGE) or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{requirement.name} is missing")
            wanted.append(str(requirement))
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{requirement.name} is {version}, but {requirement.specifier} is needed")
            wanted.append(str(requirement))
    if problems:
        return CheckResult("packages", "fail", "; ".join(problems), f"pip install {shlex.join(wanted)}")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in SHOWN)
    return CheckResult("packages", "ok", f"{versions}; all packages have supported versions")


def check_gpus(trainer: TrainerConfig | None) -> CheckResult:
    """Check that the GPUs are enough for the run, fast at its precision, and free."""
    if not torch.cuda.is_available():
        return check_no_gpu(trainer)
    count = torch.cuda.device_count()
    names = {torch.cuda.get_device_name(index) for index in range(count)}
    memory = [torch.cuda.mem_get_info(index) for index in range(count)]
    text = (
        f"{count} x {', '.join(sorted(names))}, {format_bytes(min(total for _, total in memory))} each, "
        f"CUDA {torch.version.cuda}, NCCL {'.'.join(map(str, nccl.version()))}, "
        f"{'' if torch.cuda.is_bf16_supported() else 'no '}bf16"
    )
    if trainer and trainer.devices is not None and trainer.devices > count and trainer.accelerator != "cpu":
        cure = f"set trainer.devices={count}, or request {trainer.devices} GPUs per node from Slurm"
        return CheckResult("gpus", "fail", f"{text}; trainer.devices is {trainer.devices}", cure)
    if trainer and trainer.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return CheckResult("gpus", "warn", f"{text}; bf16 is emulated and slow", "set trainer.precision=fp32, or use newer GPUs")
    busy = [index for index, (free, total) in enumerate(memory) if total - free > MAX_GPU_USE * total]
    if busy:
        free, total = memory[busy[0]]
        cure = "find the program that uses it with nvidia-smi, and stop it"
        return CheckResult("gpus", "warn", f"{text}; {format_bytes(total - free)} of GPU {busy[0]} are in use", cure)
    return CheckResult("gpus", "ok", text)


def check_no_gpu(trainer: TrainerConfig | None) -> CheckResult:
    """Return ok for runs on CPUs, unless there are GPUs that torch cannot use."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if trainer and trainer.accelerator == "cuda":
        cure = "run this on a machine with GPUs, such as in a job, or set trainer.accelerator=auto"
        return CheckResult("gpus", "fail", "trainer.accelerator is cuda, but torch finds no GPU", cure)
    if Path("/dev/nvidia0").exists() and not hidden:
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        cure = "install a torch for CUDA that fits the driver (nvidia-smi shows which it supports)"
        return CheckResult("gpus", "fail", f"this machine has GPUs, but torch {torch.__version__}, {build}, cannot use them", cure)
    return CheckResult("gpus", "ok", "no GPU on this machine: runs use the CPUs")


def check_cores(config: RunConfig | None, local_ranks: int) -> CheckResult:
    return compare_cores(available_cores(), config, local_ranks)


def check_open_files(config: RunConfig | None) -> CheckResult:
    """Check the limit of open files: shards, and waiting batches, because torch shares each tensor as a file."""
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"this process may open {'any number of' if limit == resource.RLIM_INFINITY else f'{limit:,}'} files (ulimit -n)"
    needed = MIN_OPEN_FILES
    if config is not None:
        needed = estimate_open_files(config)
        text += f"; the run needs up to about {needed:,}"
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return CheckResult("open files", "ok", text)
    if hard == resource.RLIM_INFINITY or hard >= needed:
        return CheckResult("open files", "warn", text, f"run `ulimit -n {max(4096, needed)}` before the run")
    return CheckResult("open files", "warn", text, "ask an administrator to raise the limit")


def estimate_open_files(config: RunConfig) -> int:
    """Return the open files of the training process, with its workers' batches, or of a worker, with its shards, if more."""
    data = config.data
    masks = 2 * len(config.method.mask_sets)
    batches = data.workers * (data.prefetch_batches + 1) * (len(config.views.kinds) + masks + 2)
    shards = 2 * WINDOW_SHARDS * len(data.train)
    return BASE_OPEN_FILES + (max(batches, shards) if data.workers else shards)
