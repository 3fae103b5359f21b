"""Whether this machine is fit for a run: versions, GPUs, cores, shared memory, open files."""

import importlib.metadata
import os
import platform
import resource
import shutil
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from torch.cuda import nccl

from jepa_pipeline.checks.finding import Finding, plural, size
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.worker_pool import available_cores

PACKAGE = "jepa_pipeline"
SHOWN = ("torch", "lightning", "timm")
SHARED_MEMORY = Path("/dev/shm")
FEW_FILES, FILES_OF_PYTHON = 1024, 128
LITTLE_SHARED_MEMORY = 1e9
GPU_TAKEN = 0.1
"""Share of a GPU's memory above which somebody else is at work on it."""


def check_machine(config: RunConfig | None, ranks: int, sharing: int) -> list[Finding]:
    """Always the same names in the same order. ranks: processes of the run; sharing: how many of them share this one's cores."""
    return [
        check_python(),
        check_packages(),
        check_gpus(config),
        check_cores(config, sharing),
        check_shared_memory(config, ranks, sharing),
        check_open_files(config),
    ]


def check_python() -> Finding:
    wanted, found = SpecifierSet(importlib.metadata.metadata(PACKAGE)["Requires-Python"]), platform.python_version()
    if wanted.contains(found, prereleases=True):
        return Finding("python", "ok", f"Python {found}")
    return Finding("python", "fail", f"Python {found}, but {PACKAGE} needs {wanted}", "make an environment with such a Python")


def check_packages() -> Finding:
    """Whether all that is depended on is there, in a version that is supported."""
    wrong = []
    for line in importlib.metadata.requires(PACKAGE) or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            wrong.append(f"{wanted.name} is {found}, but {wanted.specifier} is needed")
    if wrong:
        return Finding("packages", "fail", "; ".join(wrong), f"pip install --upgrade {PACKAGE}")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in SHOWN)
    return Finding("packages", "ok", f"{versions}; all are in the supported ranges")


def check_gpus(config: RunConfig | None) -> Finding:
    """GPUs, their memory, what they run, and whether the recipe's wishes can be met."""
    if not torch.cuda.is_available():
        return no_gpu(config)
    count = torch.cuda.device_count()
    names = {torch.cuda.get_device_name(index) for index in range(count)}
    memory = [torch.cuda.mem_get_info(index) for index in range(count)]
    text = (
        f"{count} x {', '.join(sorted(names))}, {size(min(total for _, total in memory))} each, CUDA {torch.version.cuda}, "
        f"NCCL {'.'.join(map(str, nccl.version()))}, {'' if torch.cuda.is_bf16_supported() else 'no '}bf16"
    )
    wanted = config.trainer.devices if config else None
    if wanted is not None and wanted > count and config and config.trainer.accelerator != "cpu":
        cure = f"set trainer.devices={count}, or ask Slurm for {wanted} GPUs a node"
        return Finding("gpus", "fail", f"{text}; trainer.devices is {wanted}", cure)
    if config and config.trainer.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return Finding("gpus", "warn", f"{text}; bf16 is emulated, and slow", "set trainer.precision=fp32, or take newer GPUs")
    taken = [index for index, (free, total) in enumerate(memory) if total - free > GPU_TAKEN * total]
    if taken:
        free, total = memory[taken[0]]
        cure = "see with nvidia-smi whose it is, and end it"
        return Finding("gpus", "warn", f"{text}; of GPU {taken[0]} {size(total - free)} are taken already", cure)
    return Finding("gpus", "ok", text)


def no_gpu(config: RunConfig | None) -> Finding:
    """Fine for a run on CPUs, unless GPUs are there and torch does not find them."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if config and config.trainer.accelerator == "cuda":
        cure = "run this where GPUs are, such as in a job, or set trainer.accelerator=auto"
        return Finding("gpus", "fail", "trainer.accelerator is cuda, but torch finds no GPU", cure)
    if Path("/dev/nvidia0").exists() and not hidden:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        cure = "install a torch for CUDA that fits the driver (nvidia-smi shows which it supports)"
        return Finding("gpus", "fail", f"this machine has GPUs, but torch {torch.__version__}, {built}, cannot use them", cure)
    return Finding("gpus", "ok", "no GPU here: runs compute on CPUs")


def check_cores(config: RunConfig | None, sharing: int) -> Finding:
    """Cores of this process against the decoding processes and itself."""
    cores = available_cores()
    text = plural(cores, "core") + " for this process"
    if config is None:
        return Finding("cores", "ok", text)
    needed = sharing * (1 + config.data.workers)
    if sharing > 1:
        text = f"{plural(cores, 'core')} for {sharing} processes"
    text += f"; {needed} would be busy (data.workers {config.data.workers} and training itself, for each process)"
    if needed <= cores:
        return Finding("cores", "ok", text)
    cure = f"set data.workers={max(cores // sharing - 1, 0)}, or ask Slurm for --cpus-per-task={1 + config.data.workers}"
    return Finding("cores", "warn", text, cure)


def check_shared_memory(config: RunConfig | None, ranks: int, sharing: int) -> Finding:
    """Room for the batches that wait in /dev/shm between the decoding processes and training."""
    if not SHARED_MEMORY.is_dir():
        return Finding("shared memory", "skipped", f"there is no {SHARED_MEMORY} on this system")
    usage = shutil.disk_usage(SHARED_MEMORY)
    text = f"{SHARED_MEMORY} has {size(usage.free)} free of {size(usage.total)}"
    cure = f"enlarge {SHARED_MEMORY} (docker run --shm-size=16g)"
    if config is None:
        return Finding("shared memory", "ok" if usage.free >= LITTLE_SHARED_MEMORY else "warn", text, *few(usage.free, cure))
    waiting = config.data.workers * (config.data.prefetch_batches + 1) * micro_batch_bytes(config, ranks) * sharing
    text += f"; batches that wait take up to about {size(waiting)}"
    if waiting <= usage.free:
        return Finding("shared memory", "ok", text)
    return Finding("shared memory", "warn", text, f"{cure}, or lower data.workers or data.prefetch_batches")


def few(free: float, cure: str) -> tuple[str, ...]:
    return (cure,) if free < LITTLE_SHARED_MEMORY else ()


def micro_batch_bytes(config: RunConfig, ranks: int) -> int:
    """Of the views of one process's part of a batch, a byte a value. Where the trainer cuts views, whole images are sent: as much,
    about.
    """
    encoder, optim = config.method.encoder, config.optim
    pixels = sum(side * side for side in config.views.sizes(encoder.image_size))
    return 3 * encoder.frames * pixels * optim.batch_size_global // (optim.accumulate_steps * ranks)


def check_open_files(config: RunConfig | None) -> Finding:
    """The limit of open files against shards, and batches that wait: torch passes each tensor as a file."""
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"this process may open {'any number of' if limit == resource.RLIM_INFINITY else f'{limit:,}'} files (ulimit -n)"
    needed = FEW_FILES
    if config is not None:
        needed = files_needed(config)
        text += f"; the run needs up to about {needed:,}"
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return Finding("open files", "ok", text)
    more = f"ulimit -n {max(4096, needed)}" if hard == resource.RLIM_INFINITY or hard >= needed else "an administrator to raise it"
    return Finding("open files", "warn", text, f"before the run: {more}")


def files_needed(config: RunConfig) -> int:
    """Of the training process with the batches of its workers, or of one worker with its shards, whichever is more."""
    data = config.data
    masks = 2 * len(config.method.mask_sets)
    batches = data.workers * (data.prefetch_batches + 1) * (len(config.views.kinds) + masks + 2)
    shards = 2 * data.window_shards * len(data.train)
    return FILES_OF_PYTHON + (max(batches, shards) if data.workers else shards)
