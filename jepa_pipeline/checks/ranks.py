"""Checks that the ranks of a run are alike, share their folder, and communicate fast enough. All ranks must run them."""

import hashlib
import platform
import secrets
import shutil
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch.cuda import nccl

from jepa_pipeline.checks.result import CheckResult, format_bytes, pluralize
from jepa_pipeline.checks.storage import MAX_SKEW_S, remove_if_empty
from jepa_pipeline.config.data import DataConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.custom import source_manifest
from jepa_pipeline.distributed import all_gather_object, all_reduce, barrier, rank, world_size
from jepa_pipeline.version import __version__

PAYLOAD_BYTES, ROUNDS = 64_000_000, 3
MATRIX_SIZE = {"cpu": 768, "cuda": 8192}
"""Rows of the matrices whose product measures the speed of a rank."""
MIN_SPEED_SHARE = 0.7
"""Share of the median speed below which a rank is reported as slow."""
MIN_GPU_BANDWIDTH = 5e9
"""Bytes per second below which GPUs wait for the network."""
VISIBLE_WITHIN_S = 30.0
"""Seconds until another machine's file must be visible; NFS caches that it was missing."""


class RankReport(NamedTuple):
    """The environment of a rank; alike: what must be the same on all ranks."""

    host: str
    alike: dict[str, str]
    gpu: str
    gpu_id: str


def check_ranks(config: RunConfig | None, folder: Path | None, code: str, device: str) -> list[CheckResult]:
    """Compare all ranks and measure how fast they communicate and compute.

    Args:
        config: the run; None: no run.
        folder: a folder that all ranks should share.
        code: hash of the source files this rank runs.
        device: cpu or cuda.
    """
    reports = all_gather_object(describe_rank(config, code, device))
    results = [check_alike(reports), *check_gpus(reports, device), check_clocks(reports)]
    if folder is not None:
        results.append(check_shared_folder(folder, reports))
    return [*results, check_bandwidth(reports, device), check_compute(reports, device)]


def describe_rank(config: RunConfig | None, code: str, device: str) -> RankReport:
    alike = {"Python": platform.python_version(), "torch": torch.__version__, "jepa_pipeline": __version__}
    alike |= {"code": code}
    if config is not None:
        alike["configuration"] = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12]
        alike["data"] = hash_data(config.data)
    if device != "cuda":
        return RankReport(socket.gethostname(), alike, "", "")
    alike |= {"CUDA": str(torch.version.cuda), "NCCL": ".".join(map(str, nccl.version()))}
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return RankReport(socket.gethostname(), alike, properties.name, str(properties.uuid))


def hash_data(data: DataConfig) -> str:
    """Return the hashes of all sources as this machine reads them."""
    try:
        return " + ".join(source_manifest(source, data).hash() for source in data.train)
    except (UserError, OSError) as error:
        return f"unreadable ({error})"


def check_alike(reports: list[RankReport]) -> CheckResult:
    """Check that all ranks have the same versions, configuration, code and data."""
    hosts = list(dict.fromkeys(report.host for report in reports))
    names = {name: None for report in reports for name in report.alike}
    differences = list(filter(None, (describe_difference(reports, name) for name in names)))
    text = f"{pluralize(len(reports), 'rank')} on {pluralize(len(hosts), 'machine')}"
    if not differences:
        return CheckResult("ranks", "ok", f"{text} ({abbreviate(hosts)}) have the same {', '.join(names)}")
    cure = "give all machines the same environment, checkout and files, ideally on a shared file system"
    return CheckResult("ranks", "fail", f"{text} differ in {'; '.join(differences)}", cure)


def describe_difference(reports: list[RankReport], name: str) -> str:
    """Return which ranks have which value, the most common one first; "" if there is only one."""
    by_value: dict[str, list[int]] = {}
    for number, report in enumerate(reports):
        by_value.setdefault(report.alike.get(name, "none"), []).append(number)
    if len(by_value) == 1:
        return ""
    common, *others = sorted(by_value, key=lambda value: -len(by_value[value]))
    deviating = (f"{value} on {name_ranks(reports, by_value[value])}" for value in others)
    return f"{name}: {common} on most, {', '.join(deviating)}"


def name_ranks(reports: list[RankReport], ranks: list[int]) -> str:
    return abbreviate([f"rank {number} ({reports[number].host})" for number in ranks])


def abbreviate(words: list[str], most: int = 4) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def check_gpus(reports: list[RankReport], device: str) -> Iterator[CheckResult]:
    """Check that each rank has its own GPU, and that all GPUs have the same type."""
    if device != "cuda":
        return
    gpus = [(report.host, report.gpu_id) for report in reports]
    shared = [number for number, gpu in enumerate(gpus) if gpus.count(gpu) > 1]
    types = sorted({report.gpu for report in reports})
    if shared:
        cure = "start one process per GPU of a node, each with all GPUs or its own one visible"
        yield CheckResult("gpus of ranks", "fail", f"a GPU is shared by {name_ranks(reports, shared)}", cure)
    elif len(types) > 1:
        text = f"GPUs differ ({', '.join(types)}), so all wait for the slowest"
        yield CheckResult("gpus of ranks", "warn", text, "request one type (gpu_type or constraint in the site file)")
    else:
        yield CheckResult("gpus of ranks", "ok", f"each rank has its own GPU, {types[0]}")


def check_clocks(reports: list[RankReport]) -> CheckResult:
    """Compare the clocks of all machines."""
    barrier()  # so that all read theirs at about the same time
    clocks: list[float] = all_gather_object(time.time())
    center = statistics.median(clocks)
    wrong = [number for number, clock in enumerate(clocks) if abs(clock - center) > MAX_SKEW_S]
    if not wrong:
        return CheckResult("clocks", "ok", f"the clocks of all ranks agree within {max(clocks) - min(clocks):.2f} s")
    text = f"the clock of {name_ranks(reports, wrong)} is {clocks[wrong[0]] - center:+.1f} s off the others'"
    return CheckResult("clocks", "warn", text, "ask an administrator to synchronize the clocks (NTP)")


def check_shared_folder(folder: Path, reports: list[RankReport]) -> CheckResult:
    """Check that what each rank writes to the run folder is visible to all others."""
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    shared = folder / f".doctor-{all_gather_object(secrets.token_hex(4))[0]}"
    errors: list[str] = all_gather_object(write_file_of_rank(shared))
    writers = [number for number, error in enumerate(errors) if not error]
    missing: list[list[int]] = all_gather_object(wait_for_files(shared, writers))
    shutil.rmtree(shared, ignore_errors=True)
    remove_if_empty(created)
    barrier()
    cure = "choose a folder that all nodes mount and can write, with output=FOLDER"
    if wrong := [number for number, error in enumerate(errors) if error]:
        text = f"{folder} cannot be written by {name_ranks(reports, wrong)}: {errors[wrong[0]]}"
        return CheckResult("shared folder", "fail", text, cure)
    if blind := [number for number, ranks in enumerate(missing) if ranks]:
        example = name_ranks(reports, missing[blind[0]][:1])
        text = f"{name_ranks(reports, blind)} do not see in {folder} what others wrote there, such as {example}"
        return CheckResult("shared folder", "fail", text, cure)
    return CheckResult("shared folder", "ok", f"every rank can write {folder} and sees the files of all others")


def write_file_of_rank(folder: Path) -> str:
    """Write a file named after this rank, and return the error, "" if there is none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"rank-{rank()}").write_text(socket.gethostname())
    except OSError as error:
        return error.strerror or str(error)
    return ""


def wait_for_files(folder: Path, ranks: list[int]) -> list[int]:
    """Return the ranks whose files do not become visible in time."""
    deadline = time.monotonic() + VISIBLE_WITHIN_S
    while True:
        present: set[str] = set()
        with suppress(OSError):
            present = {path.name for path in folder.iterdir()}
        missing = [number for number in ranks if f"rank-{number}" not in present]
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(0.2)


def check_bandwidth(reports: list[RankReport], device: str) -> CheckResult:
    """Measure how fast gradients are summed over all ranks. All wait for the slowest, so this does not name a slow one."""
    payload = torch.ones(PAYLOAD_BYTES // 4, device=device)
    all_reduce(payload)
    barrier()
    start = time.perf_counter()
    for _ in range(ROUNDS):
        all_reduce(payload)
    synchronize(device)
    count = world_size()
    moved = 2 * (count - 1) / count * ROUNDS * PAYLOAD_BYTES  # of a ring all-reduce
    speeds: list[float] = all_gather_object(moved / (time.perf_counter() - start))
    slowest = min(range(count), key=speeds.__getitem__)
    text = (
        f"all-reduce of {format_bytes(PAYLOAD_BYTES)} over {'NCCL' if device == 'cuda' else 'gloo'}: "
        f"{format_bytes(statistics.median(speeds))}/s per rank, slowest {name_ranks(reports, [slowest])} with "
        f"{format_bytes(speeds[slowest])}/s"
    )
    if device == "cuda" and speeds[slowest] < MIN_GPU_BANDWIDTH:
        cure = "NCCL_DEBUG=INFO shows which network NCCL uses; choose another with NCCL_SOCKET_IFNAME or NCCL_IB_HCA"
        return CheckResult("bandwidth", "warn", text, cure)
    return CheckResult("bandwidth", "ok", text)


def check_compute(reports: list[RankReport], device: str) -> CheckResult:
    """Measure how fast each rank computes by itself, which names a slow machine."""
    size = MATRIX_SIZE[device]
    matrix, seconds = torch.ones(size, size, device=device, dtype=torch.bfloat16 if device == "cuda" else torch.float32), []
    for _ in range(2 + ROUNDS):  # the first two warm up
        synchronize(device)
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    speeds: list[float] = all_gather_object(2 * size**3 / min(seconds) / 1e12)
    center = statistics.median(speeds)
    slow = [number for number, speed in enumerate(speeds) if speed < MIN_SPEED_SHARE * center]
    text = f"products of {size} x {size} matrices: {center:.3g} TFLOP/s per rank"
    if slow:
        text += f", but {min(speeds):.3g} on {name_ranks(reports, slow)}"
        return CheckResult(
            "compute", "warn", text, "check what else runs there, or exclude that machine (exclude in the site file)"
        )
    return CheckResult("compute", "ok", f"{text}, none slower than {min(speeds):.3g}")


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
