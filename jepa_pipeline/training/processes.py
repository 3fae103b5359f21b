"""The processes of a run: how each learns its rank, joins the process group, and leaves it."""

import gc
import hashlib
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal, NamedTuple

import torch
from torch.distributed import PrefixStore, Store, TCPStore, rendezvous

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.config.errors import Interrupted, UserError, first_line
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.trainer import TrainerConfig
from jepa_pipeline.distributed import (
    all_gather_object,
    barrier,
    destroy_process_group,
    init_process_group,
    is_connection_error,
)
from jepa_pipeline.training.meeting import RENDEZVOUS_S, agree_on_start, check_devices
from jepa_pipeline.training.requeue import requeue_after_failure
from jepa_pipeline.training.restarts import read_restarts
from jepa_pipeline.training.signals import InterruptedAlone, write_stderr
from jepa_pipeline.training.watchdog import ABORTED, Watchdog
from jepa_pipeline.version import PACKAGE, __version__
from lightning.fabric.plugins.environments import SLURMEnvironment

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
NEVER_S = 30 * 24 * 3600.0


class RankInfo(NamedTuple):
    """The rank of a process, in torchrun's terms."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    master_addr: str
    master_port: int
    """0: any free one."""
    launcher: Literal["torchrun", "Slurm"] | None
    """None: no other processes were started; if world_size is more than 1, this one is to start them."""

    @property
    def nodes(self) -> int:
        """Number of machines."""
        return self.world_size // self.local_world_size


class Rendezvous(NamedTuple):
    """The processes that have met."""

    info: RankInfo
    hosts: list[str]
    """The machine of each process, in order of rank."""
    store: Store | None
    """The watchdog's own connection to the store where they met; None in a single process."""


def read_rank_info(config: TrainerConfig, environment: Mapping[str, str] | None = None) -> RankInfo:
    """Return the rank that torchrun or Slurm gave this process, else that of the only process so far.

    Raises:
        UserError: they contradict the configuration, or there are not enough devices.
    """
    environment = environment if environment is not None else os.environ
    if all(name in environment for name in TORCHRUN):
        rank, world_size, local_rank, local_world_size = (int(environment[name]) for name in TORCHRUN[:4])
        info = RankInfo(
            rank, world_size, local_rank, local_world_size, environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), "torchrun"
        )
    elif "SLURM_STEP_ID" in environment and int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        info = read_slurm_rank(environment)
    else:
        return rank_of_first_process(config)
    for name, wanted, started in (("devices", config.devices, info.local_world_size), ("nodes", config.nodes, info.nodes)):
        if wanted is not None and wanted != started:
            what = "processes on each node" if name == "devices" else "nodes"
            raise UserError(
                f"trainer.{name} is {wanted}, but {info.launcher} started {started} {what}: make them equal, or "
                f"remove trainer.{name}"
            )
    limit = read_restarts(environment).limit
    if info.launcher == "torchrun" and config.restarts not in (None, limit):
        raise UserError(
            f"trainer.restarts is {config.restarts}, but torchrun restarts up to {limit} times: start it with "
            f"--max-restarts={config.restarts}, or remove trainer.restarts"
        )
    return info


def read_slurm_rank(environment: Mapping[str, str]) -> RankInfo:
    """Return the rank of a task of a Slurm job step. Lightning's SLURMEnvironment reads that of the job, not of the step."""
    size, nodes = int(environment["SLURM_STEP_NUM_TASKS"]), int(environment["SLURM_STEP_NUM_NODES"])
    if size % nodes:
        raise UserError(f"Slurm started {size} tasks on {nodes} nodes: start equally many on each (--ntasks-per-node)")
    address = SLURMEnvironment.resolve_root_node_address(environment["SLURM_STEP_NODELIST"])
    port = 15000 + (int(environment["SLURM_JOB_ID"]) + 97 * int(environment["SLURM_STEP_ID"])) % 10000  # jobs share machines
    rank, local_rank = int(environment["SLURM_PROCID"]), int(environment["SLURM_LOCALID"])
    return RankInfo(rank, size, local_rank, size // nodes, address, port, "Slurm")


def rank_of_first_process(config: TrainerConfig) -> RankInfo:
    """Return the rank of a process that nothing has launched beside others."""
    if config.nodes is not None and config.nodes > 1:
        raise UserError(
            f"trainer.nodes is {config.nodes}, but nothing started processes on other machines: use jepa submit, srun or torchrun"
        )
    devices, available = config.devices or 1, torch.cuda.device_count()
    if config.accelerator != "cpu" and 0 < available < devices:
        raise UserError(f"trainer.devices is {devices}, but torch finds {available} CUDA devices: lower it")
    return RankInfo(0, devices, 0, devices, "127.0.0.1", 0, launcher=None)


@contextmanager
def report_on_rank_zero() -> Iterator[None]:
    """Raise a UserError on rank 0 alone and end the other processes without a word; for errors that all find before they meet."""
    try:
        yield
    except UserError as error:
        if int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0) > 0:
            raise SystemExit(error.exit_code) from None
        raise


@contextmanager
def process_group(info: RankInfo, device: str, always: bool = False, stuck_s: float | None = RENDEZVOUS_S) -> Iterator[Rendezvous]:
    """Join the process group, and leave it together with the others unless there was an error.

    Args:
        info: rank of this process.
        device: cpu or cuda.
        always: also form a group of a single process, as sharding needs it.
        stuck_s: seconds after which the watchdog ends a run that is stuck, before a collective would give up; None: never.

    Raises:
        UserError: not all processes came, or not all with a GPU.
    """
    if info.world_size == 1 and not always:
        yield Rendezvous(info, [socket.gethostname()], None)
        return
    if device == "cuda":
        set_cuda_device(info)
    address, port = info.master_addr, info.master_port or free_port()
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port), "RANK": str(info.rank), "WORLD_SIZE": str(info.world_size)}
    try:
        store, rank, size = next(iter(rendezvous("env://", timeout=timedelta(seconds=RENDEZVOUS_S))))
        name = agree_on_start(store, rank, size)
        with report_on_rank_zero():
            hosts = check_devices(PrefixStore(name, store), rank, size, device)
        timeout_s = NEVER_S if stuck_s is None else max(RENDEZVOUS_S, 2 * stuck_s)
        init_process_group(PrefixStore(f"{name}/ranks", store), rank, size, device, timeout_s)
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"process {info.rank} of {info.world_size} could not meet the others at {address}:{port} "
            f"({first_line(error)}): check that all were started and that the port is open between their machines"
        ) from None
    try:
        # A client of its own, since a call that waits blocks all others of its client.
        client = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=RENDEZVOUS_S))
        yield Rendezvous(info, hosts, PrefixStore(f"{name}/watch", client))
    except BaseException:
        if info.world_size == 1:
            destroy_process_group()
        raise  # of several, the others may never come to the barrier
    gc.collect()  # DDP's reducer and device meshes still hold groups, which must not outlive the default one
    barrier()
    destroy_process_group()


def set_cuda_device(info: RankInfo) -> None:
    """Select this process's GPU; Slurm may let it see that one alone.

    Raises:
        UserError: there are fewer GPUs than processes.
    """
    available = torch.cuda.device_count()
    if 1 < available <= info.local_rank:
        raise UserError(
            f"{info.local_world_size} processes on {socket.gethostname()}, where torch finds {available} CUDA devices: start one "
            "for each device"
        )
    torch.cuda.set_device(info.local_rank % available)


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def check_same_setup(processes: Rendezvous, config: RunConfig, data_hash: str) -> None:
    """Check that all processes run the same code with the same configuration on the same data.

    Raises:
        UserError: they do not, with who differs in what; or replica groups of hsdp would cross machines.
    """
    hosts, size = processes.hosts, processes.info.local_world_size
    if config.trainer.strategy == "hsdp" and any(len({*hosts[n : n + size]}) > 1 for n in range(0, len(hosts), size)):
        raise UserError(
            f"trainer.strategy is hsdp, but ranks are not placed on machines in blocks of {size}: start equally many on each, in "
            "order (--ntasks-per-node, --distribution=block)"
        )
    mine = {
        "configuration": hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12],
        "code": code_hash(),
        "jepa_pipeline": __version__,
        "torch": torch.__version__,
        "data": data_hash,
    }
    setups = all_gather_object(mine)
    differing = [
        f"rank {rank} on {hosts[rank]} has {name} {setup[name]}, rank 0 on {hosts[0]} has {setups[0][name]}"
        for rank, setup in enumerate(setups)
        for name in mine
        if setup[name] != setups[0][name]
    ]
    if differing:
        raise UserError("the processes of this run differ, so they would not train one network:\n" + "\n".join(differing))


def code_hash() -> str:
    """Return the first 12 hex digits of the SHA-256 of this package's sources."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def watch_processes(processes: Rendezvous, config: RunConfig) -> Iterator[Watchdog]:
    """End this process when another one fails, is gone or is stuck, and end the others when this one fails.

    An error that all processes raise is printed by one of them.
    """
    rank, folder, stuck_s = processes.info.rank, config.folder, config.trainer.stuck_s
    restarts_left = read_restarts().left > 0

    def requeue(reason: str) -> None:
        if not restarts_left:  # else the launcher starts the processes again
            requeue_after_failure(folder, reason, watchdog.stage[1], print)

    with Watchdog(processes.store, rank, processes.hosts, folder, config.trainer.silent_s, stuck_s, requeue) as watchdog:
        try:
            yield watchdog
            watchdog.set_stage("end", watchdog.stage[1])
        except Interrupted as error:
            alone = isinstance(error, InterruptedAlone)
            # else all are interrupted at the same step, and one prints it
            if not (watchdog.report_error(str(error), error.exit_code) if alone else rank == 0):
                raise SystemExit(error.exit_code) from None
            raise
        except Exception as error:
            if processes.info.world_size == 1:
                raise
            if is_connection_error(error):
                watchdog.wait_for_verdict(restarts_left)
                if restarts_left:  # the launcher knows who died, and waits for this process to start all again
                    write_stderr(f"rank {rank} cannot reach another process of the run ({first_line(error)})")
                    os._exit(ABORTED)
            code = error.exit_code if isinstance(error, UserError) else 1
            if not watchdog.report_error(str(error), code):
                raise SystemExit(code) from None
            raise
