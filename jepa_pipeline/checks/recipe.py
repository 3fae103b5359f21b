"""Checks that `jepa config check`, `jepa doctor` and every submission share. They need no device and decode no sample.

Only a run that is initialized from another one waits for torch.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from jepa_pipeline.checks.result import CheckResult, format_bytes, from_error, pluralize
from jepa_pipeline.config.data import WINDOW_SHARDS, DataConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.optim import ScheduleConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.manifest import Manifest, load_manifest
from jepa_pipeline.data.media import check_kind, check_motion, check_stored
from jepa_pipeline.data.remote import PACKAGES, is_remote
from jepa_pipeline.redaction import redact

MIN_BATCHES_PER_WINDOW = 2
"""Global batches in a shuffle window below which samples of a shard end up together in every batch."""
MANY_EPOCHS = 2000
"""Passes over the data that no published recipe comes near: the longest take 1,000."""
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
SHARED_MEMORY = Path("/dev/shm")
MIN_SHARED_MEMORY = 1e9
"""Free bytes below which a machine is worth a warning, whatever runs on it."""
TRAINING_HOLDS = 2
"""Batches that training holds: this step's, and the next one's, which Lightning fetches ahead."""
FLOAT_COPY = 4
"""Bytes per value of the normalized views, which on CPUs are in main memory beside the decoded ones."""


def check_recipe(config: RunConfig, made_later: bool = False) -> list[CheckResult]:
    """Check what a run starts from, what its folder holds, and the packages that it needs.

    Args:
        config: the run.
        made_later: an earlier job may still make what is missing.
    """
    return [*check_run_folder(config), *check_init_from(config, made_later), *check_packages(config)]


def check_run_folder(config: RunConfig) -> list[CheckResult]:
    """Check that the run folder holds no checkpoint of a run with other results.

    Data and device are left to the run to compare: they may differ here.
    """
    if not (config.folder / "checkpoints").is_dir():
        return []
    # these import torch, which takes seconds
    from jepa_pipeline.training.checkpoint import latest_info
    from jepa_pipeline.training.run_folder import check_same_run

    try:
        if (saved := latest_info(config.folder / "checkpoints")) is not None:
            check_same_run(config.folder, saved.model_copy(update={"results": config.results()}), log=lambda _: None)
    except UserError as error:
        return [from_error("run folder", error)]
    return []


def check_init_from(config: RunConfig, made_later: bool = False) -> list[CheckResult]:
    """Check that what init_from names, if anything, fits this run, as training will; a checkpoint is not loaded."""
    source = config.init_from
    if source is None or any((config.folder / "checkpoints").glob("step-*")):  # a run that resumes does not read it again
        return []
    if made_later and not source.exists():
        return [CheckResult("init_from", "skipped", f"init_from is {source}, which an earlier job may make")]
    # these import torch, which takes seconds
    import torch

    from jepa_pipeline.methods.build import build_method
    from jepa_pipeline.methods.method import Method
    from jepa_pipeline.training.init_from import check_source

    def build() -> Method:
        with torch.device("meta"):  # shapes without memory
            return build_method(config.method)

    try:
        return [CheckResult("init_from", "ok", check_source(source, config, build))]
    except UserError as error:
        return [from_error("init_from", error)]


def check_packages(config: RunConfig) -> list[CheckResult]:
    """Check that the packages are installed that this run needs and others do not."""
    needs = [("wandb", "wandb>=0.20", "log.wandb is true", ", or set log.wandb=false")] if config.log.wandb else []
    if config.method.encoder.modality.has_time:
        needs.append(("av", "av>=18", f"{config.method.name} trains on videos", ""))
    for source in config.data.train:
        if is_remote(source.path):
            package = PACKAGES[source.path.partition("://")[0]]
            needs.append((package, package, f"data.train is {redact(source.path)}", ""))
    return [
        CheckResult("packages", "fail", f"{reason}, but {package} is not installed", f"pip install '{wanted}'{instead}")
        for package, wanted, reason, instead in needs
        if not is_installed(package)
    ]


def is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


class Node(NamedTuple):
    """A machine of a run. ranks: processes of the run; local_ranks: those on this machine; memory: bytes of main memory."""

    name: str
    ranks: int
    local_ranks: int
    memory: float
    has_gpu: bool


def this_machine(config: RunConfig, ranks: int, local_ranks: int) -> Node:
    """Return the machine that this process runs on, for a run of this many processes, and this many on the machine."""
    return Node("this machine", ranks, local_ranks, memory_limit(), has_gpu(config))


def has_gpu(config: RunConfig) -> bool:
    """Return whether the run computes on a GPU of this machine."""
    return config.trainer.accelerator != "cpu" and Path("/dev/nvidia0").exists()


def check_memory(config: RunConfig, node: Node) -> list[CheckResult]:
    """Check that the pixels of a micro-batch alone, of all processes of a machine, fit into its main memory."""
    samples = config.optim.batch_size_global // (config.optim.accumulate_steps * node.ranks)
    value = value_bytes(config) + (0 if node.has_gpu else FLOAT_COPY)
    needed = samples * node.local_ranks * count_values(config) * value
    if needed <= node.memory:
        return []
    text = (
        f"the pixels of {pluralize(samples, 'sample')} take {format_bytes(needed)}, but {node.name} has {format_bytes(node.memory)}"
    )
    return [CheckResult("memory", "fail", text, "lower optim.batch_size_global, or raise optim.accumulate_steps")]


def check_shared_memory(config: RunConfig | None, ranks: int, local_ranks: int) -> CheckResult:
    """Check the space in /dev/shm for batches on their way from the data workers to training.

    Args:
        config: the run; None: no run.
        ranks: processes of the run.
        local_ranks: those on this machine.
    """
    if not SHARED_MEMORY.is_dir():
        return CheckResult("shared memory", "skipped", f"there is no {SHARED_MEMORY} on this system")
    usage = shutil.disk_usage(SHARED_MEMORY)
    text = f"{format_bytes(usage.free)} of {format_bytes(usage.total)} are free in {SHARED_MEMORY}"
    cure = f"enlarge {SHARED_MEMORY} (docker run --shm-size=16g)"
    if config is None:
        enough = usage.free >= MIN_SHARED_MEMORY
        return CheckResult("shared memory", "ok", text) if enough else CheckResult("shared memory", "warn", text, cure)
    needed = local_ranks * count_shared_batches(config) * estimate_micro_batch_bytes(config, ranks)
    text += f"; waiting batches take up to about {format_bytes(needed)}"
    if usage.free >= needed:
        return CheckResult("shared memory", "ok", text)
    return CheckResult("shared memory", "fail", text, f"{cure}, or lower data.workers or data.prefetch_batches")


def count_shared_batches(config: RunConfig) -> int:
    """Return how many micro-batches of a process may be in shared memory at the same time.

    On CPUs all that are loaded ahead, besides the next two of training; for a GPU each is copied to pinned memory as it comes.
    """
    workers = config.data.workers
    ahead = workers if has_gpu(config) else workers * config.data.prefetch_batches
    return ahead + TRAINING_HOLDS if workers else 0


def estimate_micro_batch_bytes(config: RunConfig, ranks: int) -> int:
    """Return the bytes of a micro-batch's decoded views; whole images, for crops on the device, take about as many."""
    optim = config.optim
    return count_values(config) * value_bytes(config) * optim.batch_size_global // (optim.accumulate_steps * ranks)


def count_values(config: RunConfig) -> int:
    """Return how many values the views of a sample have."""
    encoder = config.method.encoder
    return encoder.in_channels * encoder.frames * sum(side * side for side in config.views.sizes(encoder.image_size))


def value_bytes(config: RunConfig) -> int:
    """Return the bytes of a value of the decoded views."""
    return config.data.pixel_format.bits // 8


def memory_limit() -> int:
    """Return the bytes of main memory of this machine, or of this container if it may use fewer."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
    return min(total, int(text)) if text.isdecimal() else total


def compare_cores(cores: int, config: RunConfig | None, local_ranks: int) -> CheckResult:
    """Check that there is a CPU core per process: the data workers and the training process itself."""
    text = f"{pluralize(cores, 'core')} for {'this process' if local_ranks == 1 else f'{local_ranks} processes'}"
    if config is None:
        return CheckResult("cores", "ok", text)
    workers = config.data.workers
    needed = local_ranks * (1 + workers)
    text += f"; {needed} would be busy (data.workers {workers} and training, per process)"
    if needed <= cores:
        return CheckResult("cores", "ok", text)
    cure = f"set data.workers={max(cores // local_ranks - 1, 0)}, or request --cpus-per-task={1 + workers} from Slurm"
    return CheckResult("cores", "warn", text, cure)


def check_manifests(
    config: RunConfig,
    may_be_missing: bool = False,
    check_source: Callable[[str, Manifest], Iterable[CheckResult]] = lambda path, manifest: (),
) -> list[CheckResult]:
    """Check the data, as far as manifests tell: whether it fits the method and is enough.

    Args:
        config: the run.
        may_be_missing: local data that does not exist is a warning: the run may be meant for another machine or a later time.
        check_source: further checks of a source, by its location and manifest.
    """
    results, manifests = [], []
    for source in config.data.train:
        location = redact(source.path)
        try:
            if source.class_path is not None:
                from jepa_pipeline.data.custom import source_manifest  # which imports torch, and the user's own module

                manifests.append(source_manifest(source, config.data))
                text = f"data.train is {location}, your own, of {pluralize(manifests[-1].samples, 'sample')}"
                results.append(CheckResult("data", "ok", text))
                continue
            if may_be_missing and not is_remote(source.path) and not Path(source.path).exists():
                text = f"data.train is {location}, which is not here, so that it is not checked"
                results.append(CheckResult("data", "warn", text, "if the data is elsewhere, set data.train=NEW"))
                continue
            manifest = load_manifest(source.path)
            check_kind(location, manifest.kind, config.method)
            check_stored(location, manifest, config.data.pixel_format)
            results += check_source(source.path, manifest)
            manifests.append(manifest)
        except UserError as error:
            results.append(from_error("data", error))
        except OSError as error:
            results.append(CheckResult("data", "fail", f"{location} cannot be read ({error.strerror})", "check its permissions"))
    if len(manifests) == len(config.data.train):
        try:
            check_motion([manifest.kind for manifest in manifests], config.method)
        except UserError as error:
            results.append(from_error("data", error))
        results.append(check_amount(config.data, config.optim, manifests))
    return results


def check_amount(data: DataConfig, optim: ScheduleConfig, manifests: Sequence[Manifest]) -> CheckResult:
    """Check that each source has enough samples for the run, for its share of a batch, and its shuffle window for several."""
    batch, total_weight = optim.batch_size_global, sum(source.weight for source in data.train)
    samples = sum(manifest.samples for manifest in manifests)
    epochs = optim.total_samples / samples
    text = f"{pluralize(samples, 'sample')} for global batches of {batch:,}; the run reads each {epochs:,.1f} times on average"
    for source, manifest in zip(data.train, manifests, strict=True):
        share = source.weight / total_weight
        window = manifest.samples * min(1.0, WINDOW_SHARDS / len(manifest.shards))
        name = redact(source.path)
        if manifest.samples < batch * share:
            cure = "lower optim.batch_size_global, or add data"
            return CheckResult(
                "amount", "warn", f"{text}; {name} has fewer than a batch takes of it, so a batch repeats samples", cure
            )
        if window < MIN_BATCHES_PER_WINDOW * batch * share and len(manifest.shards) > WINDOW_SHARDS:
            text += f"; {name} is shuffled in windows of {window:,.0f} samples, fewer than {MIN_BATCHES_PER_WINDOW} batches"
            return CheckResult("amount", "warn", text, "pack the samples into fewer shards, with a larger --shard-size")
        own_epochs = optim.total_samples * share / manifest.samples
        if own_epochs >= MANY_EPOCHS:
            text = f"each of the {pluralize(manifest.samples, 'sample')} of {name} would be read {own_epochs:,.0f} times"
            return CheckResult(
                "amount", "warn", text, "lower optim.total_samples, or add data: published runs read each 1,000 times at most"
            )
    return CheckResult("amount", "ok", text)
