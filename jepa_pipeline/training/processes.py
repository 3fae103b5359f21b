"""The processes of a run: which of them this is, how they meet, and how they part."""

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
from jepa_pipeline.config.errors import Interrupted, UserError
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.trainer import TrainerConfig
from jepa_pipeline.distributed import barrier, collect, join, leave, lost_contact
from jepa_pipeline.training.requeue import requeue_after_failure
from jepa_pipeline.training.watchdog import Watch
from jepa_pipeline.version import PACKAGE, __version__
from lightning.fabric.plugins.environments import SLURMEnvironment

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
MEET_S = 600.0
"""Seconds that processes wait for one another at the start."""
NEVER_S = 30 * 24 * 3600.0


class World(NamedTuple):
    """Where a process stands among those of its run."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int
    started_by: Literal["torchrun", "Slurm", "hand"]
    """hand: nobody started others; of several, this one is to start them here."""

    @property
    def nodes(self) -> int:
        """Machines."""
        return self.size // self.local_size


class Crew(NamedTuple):
    """The processes that have met."""

    world: World
    hosts: list[str]
    """Of each rank, the name of its machine."""
    store: Store | None
    """A connection of the watch's own to where they met; None in a single process."""


def find_world(trainer: TrainerConfig, environment: Mapping[str, str] | None = None) -> World:
    """What torchrun or Slurm say this process is; else what the configuration asks for.

    Raises:
        UserError: they contradict each other, or there are not so many devices.
    """
    environment = environment if environment is not None else os.environ
    if all(name in environment for name in TORCHRUN):
        rank, size, local_rank, local_size = (int(environment[name]) for name in TORCHRUN[:4])
        world = World(rank, size, local_rank, local_size, environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), "torchrun")
    elif "SLURM_STEP_ID" in environment and int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        world = world_of_step(environment)
    else:
        return world_by_hand(trainer)
    for name, asked, found in (("devices", trainer.devices, world.local_size), ("nodes", trainer.nodes, world.nodes)):
        if asked is not None and asked != found:
            what = "processes on each node" if name == "devices" else "nodes"
            raise UserError(
                f"trainer.{name} is {asked}, but {world.started_by} started {found} {what}: make them agree, or leave "
                f"trainer.{name} out"
            )
    return world


def world_of_step(environment: Mapping[str, str]) -> World:
    """Of a task of a Slurm job step."""
    size, nodes = int(environment["SLURM_STEP_NUM_TASKS"]), int(environment["SLURM_STEP_NUM_NODES"])
    if size % nodes:
        raise UserError(f"Slurm started {size} tasks on {nodes} nodes: start as many on each (--ntasks-per-node)")
    address = SLURMEnvironment.resolve_root_node_address(environment["SLURM_STEP_NODELIST"])
    port = 15000 + (int(environment["SLURM_JOB_ID"]) + 97 * int(environment["SLURM_STEP_ID"])) % 10000  # jobs share machines
    rank, local_rank = int(environment["SLURM_PROCID"]), int(environment["SLURM_LOCALID"])
    return World(rank, size, local_rank, size // nodes, address, port, "Slurm")


def world_by_hand(trainer: TrainerConfig) -> World:
    """Of a process that nobody started others beside."""
    if trainer.nodes is not None and trainer.nodes > 1:
        raise UserError(
            f"trainer.nodes is {trainer.nodes}, but nothing started processes on other machines: use jepa submit, srun or torchrun"
        )
    devices, found = trainer.devices or 1, torch.cuda.device_count()
    if trainer.accelerator != "cpu" and 0 < found < devices:
        raise UserError(f"trainer.devices is {devices}, but torch finds {found} CUDA devices: lower it")
    return World(0, devices, 0, devices, "127.0.0.1", 0, "hand")


@contextmanager
def one_speaks() -> Iterator[None]:
    """What every process finds wrong in here, before they have met, the first one says."""
    try:
        yield
    except UserError as error:
        if int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0) > 0:
            raise SystemExit(error.exit_code) from None
        raise


@contextmanager
def joined(world: World, device: str, alone: bool = False, stuck_s: float | None = MEET_S) -> Iterator[Crew]:
    """Meet the others, and part from them in order at the end.

    alone: join a group of one too, as sharding needs it. stuck_s: seconds after which the watch ends a run that stands still,
    which is before a collective gives up; None: never.

    Raises:
        UserError: they did not all come, or not all with a GPU.
    """
    if world.size == 1 and not alone:
        yield Crew(world, [socket.gethostname()], None)
        return
    if device == "cuda":
        choose_gpu(world)
    address, port = world.address, world.port or free_port()
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port), "RANK": str(world.rank), "WORLD_SIZE": str(world.size)}
    try:
        store, rank, size = next(iter(rendezvous("env://", timeout=timedelta(seconds=MEET_S))))
        with one_speaks():
            check_devices(store, rank, size, device)
        join(PrefixStore("ranks", store), rank, size, device, NEVER_S if stuck_s is None else max(MEET_S, 2 * stuck_s))
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"process {world.rank} of {world.size} could not meet the others at {address}:{port} "
            f"({str(error).splitlines()[0]}): see whether all were started and that port is open between their machines"
        ) from None
    try:
        own = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=MEET_S))
        life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun's store outlives what an earlier start said in it
        yield Crew(world, collect(socket.gethostname()), PrefixStore(f"watch{life}", own))
    except BaseException:
        if world.size == 1:
            leave()
        raise  # of several, the others may never come to part in order
    gc.collect()  # what still holds a group would end it in the wrong order
    barrier()
    leave()


def choose_gpu(world: World) -> None:
    """Take this process's own of the machine's GPUs; Slurm may let it see that one alone.

    Raises:
        UserError: there are fewer than processes.
    """
    found = torch.cuda.device_count()
    if 1 < found <= world.local_rank:
        raise UserError(
            f"{world.local_size} processes on {socket.gethostname()}, where torch finds {found} CUDA devices: start one a device"
        )
    torch.cuda.set_device(world.local_rank % found)


def check_devices(store: Store, rank: int, size: int, device: str) -> None:
    """See that all compute on the same kind of device, or they would wait for one another in vain.

    Raises:
        UserError: some have no GPU.
    """
    names = [f"device{other}" for other in range(size)]
    store.set(names[rank], f"{device} on {socket.gethostname()}")
    store.wait(names, timedelta(seconds=MEET_S))
    said = [text.decode() for text in store.multi_get(names)]
    without = [f"rank {other} on {text.removeprefix('cpu on ')}" for other, text in enumerate(said) if text.startswith("cpu")]
    if 0 < len(without) < size:
        raise UserError(f"torch finds no CUDA device for {', '.join(without)}: mend or leave out the machine")


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def together(named: bool = True) -> Iterator[None]:
    """What is done in here fails on all processes if it fails on one. named: say which, if not all.

    Raises:
        UserError: what went wrong.
    """
    error: UserError | None = None
    try:
        yield
    except UserError as found:
        error = found
    texts: list[str | None] = collect(None if error is None else str(error))
    said = {text for text in texts if text is not None}
    if not said:
        return
    if error is not None and texts == [str(error)] * len(texts):
        raise error
    raise UserError("\n".join(f"{which(texts, text)}: {text}" if named else text for text in sorted(said))) from None


def which(texts: list[str | None], text: str) -> str:
    ranks = [str(rank) for rank, other in enumerate(texts) if other == text]
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(ranks)}"


def check_agreement(crew: Crew, config: RunConfig, data: str) -> None:
    """See that all processes run the same code with the same configuration on the same data.

    Raises:
        UserError: they do not, and who differs in what; or groups of hsdp would cross machines.
    """
    size = crew.world.local_size
    if config.trainer.strategy == "hsdp" and any(len({*crew.hosts[n : n + size]}) > 1 for n in range(0, len(crew.hosts), size)):
        raise UserError(
            f"trainer.strategy is hsdp, but ranks are not dealt to machines in blocks of {size}: start as many on each, in order "
            "(--ntasks-per-node, --distribution=block)"
        )
    mine = {
        "configuration": hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12],
        "code": code_hash(),
        "jepa_pipeline": __version__,
        "torch": torch.__version__,
        "data": data,
    }
    all_of_them = collect(mine)
    differing = [
        f"rank {rank} on {crew.hosts[rank]} has {name} {values[name]}, rank 0 on {crew.hosts[0]} has {all_of_them[0][name]}"
        for rank, values in enumerate(all_of_them)
        for name in mine
        if values[name] != all_of_them[0][name]
    ]
    if differing:
        raise UserError("the processes of this run differ, so they would not train one network:\n" + "\n".join(differing))


def code_hash() -> str:
    """First 12 hex digits of the SHA-256 of this package's sources."""
    digest, package = hashlib.sha256(), PACKAGE
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def watched(crew: Crew, config: RunConfig) -> Iterator[Watch]:
    """Ends this process when another one fails, is gone or stands still, and tells the others of its own failure.

    What all fail for is said by one of them.
    """
    trainer, world = config.trainer, crew.world

    def give_up(reason: str) -> None:
        requeue_after_failure(config.folder, reason, watch.place[1], print)

    with Watch(crew.store, world.rank, crew.hosts, config.folder, trainer.silent_s, trainer.stuck_s, give_up) as watch:
        try:
            yield watch
            watch.at("end", watch.place[1])
        except Interrupted as error:
            if world.rank > 0:  # all leave together
                raise SystemExit(error.exit_code) from None
            raise
        except Exception as error:
            if world.size == 1:
                raise
            if lost_contact(error):
                watch.lost()
            code = error.exit_code if isinstance(error, UserError) else 1
            if not watch.failed(str(error), code):
                raise SystemExit(code) from None
            raise
