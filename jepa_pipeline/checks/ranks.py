"""Whether the processes of a run are alike, share their folder, and talk fast enough. All of them must call what is here."""

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

from jepa_pipeline.checks.result import Finding, plural, size
from jepa_pipeline.checks.storage import remove_empty
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.manifest import load_manifest
from jepa_pipeline.distributed import barrier, all_gather_object, rank, all_reduce, world_size
from jepa_pipeline.version import __version__

PAYLOAD, ROUNDS = 64_000_000, 3
SIDE = {"cpu": 768, "cuda": 8192}
"""Of the matrices that are multiplied to see how fast a process computes."""
SLOW = 0.7
"""Share of the median below which a process is named."""
SLOW_NETWORK = 5e9
"""Bytes a second below which GPUs wait for the network."""
SIGHT_S = 30.0
"""How long a file that another machine wrote may take to be seen: NFS remembers what was not there."""
SKEW_S = 2.0


class Report(NamedTuple):
    """What a process says of itself. alike: what must be the same on all."""

    host: str
    alike: dict[str, str]
    gpu: str
    gpu_id: str


def check_ranks(config: RunConfig | None, folder: Path | None, code: str, device: str) -> list[Finding]:
    """code: hash of the sources this process runs; device: cpu or cuda."""
    reports = all_gather_object(report(config, code, device))
    findings = [check_alike(reports), *check_gpus(reports, device), check_clocks(reports)]
    if folder is not None:
        findings.append(check_shared_folder(folder, reports))
    return [*findings, check_bandwidth(reports, device), check_compute(reports, device)]


def report(config: RunConfig | None, code: str, device: str) -> Report:
    alike = {"Python": platform.python_version(), "torch": torch.__version__, "jepa_pipeline": __version__}
    alike |= {"code": code}
    if config is not None:
        alike["configuration"] = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12]
        alike["data"] = data_hash(config)
    if device != "cuda":
        return Report(socket.gethostname(), alike, "", "")
    alike |= {"CUDA": str(torch.version.cuda), "NCCL": ".".join(map(str, nccl.version()))}
    facts = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Report(socket.gethostname(), alike, facts.name, str(facts.uuid))


def data_hash(config: RunConfig) -> str:
    """Of all sources as this machine sees them."""
    try:
        return " + ".join(load_manifest(source.path).hash() for source in config.data.train)
    except (UserError, OSError) as error:
        return f"unreadable ({error})"


def check_alike(reports: list[Report]) -> Finding:
    """Whether all processes are of the same versions, configuration, code and data; else who differs in what."""
    hosts = list(dict.fromkeys(report.host for report in reports))
    names = {name: None for report in reports for name in report.alike}
    wrong = list(filter(None, (difference(reports, name) for name in names)))
    text = f"{plural(len(reports), 'rank')} on {plural(len(hosts), 'machine')}"
    if not wrong:
        return Finding("ranks", "ok", f"{text} ({abridged(hosts)}), alike in {', '.join(names)}")
    cure = "give all machines the same environment, checkout and files, best on a file system that they share"
    return Finding("ranks", "fail", f"{text} differ in {'; '.join(wrong)}", cure)


def difference(reports: list[Report], name: str) -> str:
    """Which ranks have which value, the most common one first; nothing if there is but one."""
    by_value: dict[str, list[int]] = {}
    for number, one in enumerate(reports):
        by_value.setdefault(one.alike.get(name, "none"), []).append(number)
    if len(by_value) == 1:
        return ""
    common, *others = sorted(by_value, key=lambda value: -len(by_value[value]))
    named = (f"{value} on {whose(reports, by_value[value])}" for value in others)
    return f"{name}: {common} on most, {', '.join(named)}"


def whose(reports: list[Report], ranks: list[int]) -> str:
    return abridged([f"rank {number} ({reports[number].host})" for number in ranks])


def abridged(words: list[str], most: int = 4) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def check_gpus(reports: list[Report], device: str) -> Iterator[Finding]:
    """Whether each process has a GPU of its own, and all of the same kind."""
    if device != "cuda":
        return
    places = [(one.host, one.gpu_id) for one in reports]
    twice = [number for number, place in enumerate(places) if places.count(place) > 1]
    kinds = sorted({one.gpu for one in reports})
    if twice:
        cure = "start as many processes on a node as it has GPUs, and let each see all of them or its own"
        yield Finding("gpus of ranks", "fail", f"a GPU is shared by {whose(reports, twice)}", cure)
    elif len(kinds) > 1:
        text = f"GPUs differ ({', '.join(kinds)}): all wait for the slowest"
        yield Finding("gpus of ranks", "warn", text, "ask Slurm for one type (gpu_type or constraint in the site file)")
    else:
        yield Finding("gpus of ranks", "ok", f"each rank has a GPU of its own, {kinds[0]}")


def check_clocks(reports: list[Report]) -> Finding:
    """The machines' clocks, read as nearly at once as a barrier lets them."""
    barrier()
    clocks: list[float] = all_gather_object(time.time())
    middle = statistics.median(clocks)
    wrong = [number for number, clock in enumerate(clocks) if abs(clock - middle) > SKEW_S]
    if not wrong:
        return Finding("clocks", "ok", f"the clocks of all ranks agree within {max(clocks) - min(clocks):.2f} s")
    text = f"the clock of {whose(reports, wrong)} is {clocks[wrong[0]] - middle:+.1f} s off the others'"
    return Finding("clocks", "warn", text, "ask an administrator to synchronize the clocks (NTP)")


def check_shared_folder(folder: Path, reports: list[Report]) -> Finding:
    """Whether what each process writes in the run folder is seen by every other."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    place = folder / f".doctor-{all_gather_object(secrets.token_hex(4))[0]}"
    refused: list[str] = all_gather_object(write_token(place))
    seen: list[list[int]] = all_gather_object(look_for(place, [number for number, error in enumerate(refused) if not error]))
    shutil.rmtree(place, ignore_errors=True)
    remove_empty(made)
    barrier()
    text, cure = f"{folder} is shared", "choose one that all nodes mount and may write, with output=FOLDER"
    if wrong := [number for number, error in enumerate(refused) if error]:
        return Finding("shared folder", "fail", f"{folder} cannot be written by {whose(reports, wrong)}: {refused[wrong[0]]}", cure)
    if blind := [number for number, missing in enumerate(seen) if missing]:
        first = blind[0]
        text = f"{whose(reports, blind)} do not see in {folder} what others wrote there, such as {whose(reports, seen[first][:1])}"
        return Finding("shared folder", "fail", text, cure)
    return Finding("shared folder", "ok", f"{text}: every rank writes there and sees what all others wrote")


def write_token(place: Path) -> str:
    """Leave a file of this rank; why it was refused, if it was."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        (place / f"rank-{rank()}").write_text(socket.gethostname())
    except OSError as error:
        return error.strerror or str(error)
    return ""


def look_for(place: Path, ranks: list[int]) -> list[int]:
    """The ranks whose files do not appear."""
    deadline = time.monotonic() + SIGHT_S
    while True:
        present: set[str] = set()
        with suppress(OSError):
            present = {path.name for path in place.iterdir()}
        missing = [number for number in ranks if f"rank-{number}" not in present]
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(0.2)


def check_bandwidth(reports: list[Report], device: str) -> Finding:
    """How fast gradients are summed over all ranks. All wait for the slowest, so that one number tells of them together."""
    payload = torch.ones(PAYLOAD // 4, device=device)
    all_reduce(payload)
    barrier()
    started = time.perf_counter()
    for _ in range(ROUNDS):
        all_reduce(payload)
    settle(device)
    count = world_size()
    moved = 2 * (count - 1) / count * ROUNDS * PAYLOAD
    speeds: list[float] = all_gather_object(moved / (time.perf_counter() - started))
    slowest = min(range(count), key=speeds.__getitem__)
    text = (
        f"all-reduce of {size(PAYLOAD)} over {'NCCL' if device == 'cuda' else 'gloo'}: {size(statistics.median(speeds))}/s a rank, "
        f"slowest {whose(reports, [slowest])} with {size(speeds[slowest])}/s"
    )
    if device == "cuda" and speeds[slowest] < SLOW_NETWORK:
        cure = "see with NCCL_DEBUG=INFO which network NCCL takes; NCCL_SOCKET_IFNAME and NCCL_IB_HCA choose it"
        return Finding("bandwidth", "warn", text, cure)
    return Finding("bandwidth", "ok", text)


def check_compute(reports: list[Report], device: str) -> Finding:
    """How fast each process computes by itself: this is what names a slow machine."""
    side = SIDE[device]
    matrix, seconds = torch.ones(side, side, device=device, dtype=torch.bfloat16 if device == "cuda" else torch.float32), []
    for _ in range(2 + ROUNDS):
        settle(device)
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        settle(device)
        seconds.append(time.perf_counter() - started)
    speeds: list[float] = all_gather_object(2 * side**3 / min(seconds) / 1e12)
    middle = statistics.median(speeds)
    slow = [number for number, speed in enumerate(speeds) if speed < SLOW * middle]
    text = f"products of {side} x {side} matrices: {middle:.3g} TFLOP/s a rank"
    if slow:
        text += f", but {min(speeds):.3g} on {whose(reports, slow)}"
        return Finding("compute", "warn", text, "see what else runs there, or leave that machine out (exclude in the site file)")
    return Finding("compute", "ok", f"{text}, none slower than {min(speeds):.3g}")


def settle(device: str) -> None:
    """Wait for the GPU."""
    if device == "cuda":
        torch.cuda.synchronize()
