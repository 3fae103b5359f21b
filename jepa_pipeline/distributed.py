"""Collectives over all processes of a run. In a single process each function here is the identity."""

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.distributed import ProcessGroup, Store
from torch.distributed.tensor import DTensor, distribute_tensor

# By default NCCL's own watchdog aborts every process some time after one of them is lost, with a stack trace that does not say
# which one. Switched off, a collective without its peers waits, and training/watchdog.py, which knows each process's heartbeat,
# names the lost one and gives the job back to Slurm. Defaults only: what the user has set stays.
NCCL_DEFAULTS = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0", "TORCH_NCCL_ENABLE_MONITORING": "0"}
# torch has no exception of its own for a lost peer under gloo: the RuntimeError is known by its text alone. Where a new torch
# words it otherwise, tests/distributed/test_runs_on_ranks.py shows a traceback in place of the watchdog's sentence.
CONNECTION_ERRORS = ("gloo", "Application timeout", "pair closure", "Connection closed", "Connection reset", "NCCL")


class ProcessGroups:
    """The process groups of this process."""

    control: ProcessGroup | None = None
    """gloo, for small objects and flags in host memory; the default group carries the tensors."""
    timeout = timedelta(minutes=30)
    initialized = False
    """True if this process was ever one of several: it must end by os._exit, since gloo's threads may abort a normal exit."""


def init_process_group(store: Store, rank: int, size: int, device: str, timeout_s: float) -> None:
    """Join the process group of a run: gloo for tensors on CPUs, NCCL for those on GPUs.

    Args:
        store: where the processes meet.
        rank: of this process.
        size: number of processes.
        device: cpu or cuda.
        timeout_s: seconds after which a collective gives up.
    """
    ProcessGroups.timeout = timeout = timedelta(seconds=timeout_s)
    for name, value in NCCL_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if device == "cuda":
        gpu = torch.device("cuda", torch.cuda.current_device())
        dist.init_process_group("cpu:gloo,cuda:nccl", store=store, rank=rank, world_size=size, timeout=timeout, device_id=gpu)
    else:
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timeout)
    ProcessGroups.control, ProcessGroups.initialized = new_gloo_group(), True


def destroy_process_group() -> None:
    """Leave the process group without waiting for the others."""
    ProcessGroups.control = None
    dist.destroy_process_group()


def new_gloo_group() -> ProcessGroup | None:
    """Create another gloo group of all processes, as a thread needs; None in a single process. All processes must call it."""
    if world_size() == 1:
        return None
    group = dist.new_group(backend="gloo", timeout=ProcessGroups.timeout)
    assert isinstance(group, ProcessGroup)
    return group


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def all_gather_object(value: Any, group: ProcessGroup | None = None) -> list[Any]:
    """Return every process's value, which may be of any type that pickles, in order of rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=group or ProcessGroups.control)
    return values


def barrier(group: ProcessGroup | None = None) -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier(group=group or ProcessGroups.control)


def is_connection_error(error: Exception) -> bool:
    """Return whether a collective failed because another process could not be reached."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in CONNECTION_ERRORS)
    )


def is_sharded(tensor: Tensor) -> bool:
    """Return whether each process holds only a shard of a tensor."""
    return isinstance(tensor, DTensor)


def to_local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor, which shares its memory; an unsharded tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """Return all of a sharded tensor on each process. All must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process's shard of a whole tensor, which all have, if `like` is sharded; any other tensor as it is."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def mean_over_ranks(values: Mapping[str, Float[Tensor, ""]]) -> dict[str, float]:
    """Return the mean of each scalar over all processes, which must name the same ones. Waits for the device."""
    if not values:
        return {}
    means = torch.stack([value.double() for value in values.values()]).cpu()
    if world_size() > 1:
        dist.all_reduce(means, group=ProcessGroups.control)
        means /= world_size()
    return dict(zip(values, means.tolist(), strict=True))


class AsyncFlags:
    """The maximum over all processes of a few integers, one call late, so that no process waits for another at a step.

    In a single process it is the integers of the same call.
    """

    def __init__(self) -> None:
        self.pending: tuple[Tensor, Any] | None = None

    def exchange(self, flags: list[int]) -> list[int]:
        """Send flags, and return the maxima of those sent at the call before; zeros at the first call."""
        if world_size() == 1:
            return flags
        maxima = [0] * len(flags)
        if self.pending is not None:
            sent, work = self.pending
            work.wait()
            maxima = sent.tolist()
        tensor = torch.tensor(flags)
        self.pending = tensor, dist.all_reduce(tensor, dist.ReduceOp.MAX, group=ProcessGroups.control, async_op=True)
        return maxima

    def wait(self) -> None:
        """Complete the exchange that is under way, so that the group can be destroyed."""
        if self.pending is not None:
            self.pending[1].wait()
            self.pending = None


def gather(part: Float[Tensor, "..."], dim: int = 0) -> Float[Tensor, "..."]:
    """Concatenate the parts of all processes, which are of one size, along a dimension in order of rank.

    Differentiable: the gradient of a part is the sum of the gradients on all processes. Where each process computes the same
    loss of all parts, the mean of its parameters' gradients, as DDP takes it, is the gradient of that loss.
    """
    return Gather.apply(part, dim) if world_size() > 1 else part


def all_reduce(part: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the sum over all processes, differentiable in the same sense as `gather`."""
    return AllReduce.apply(part) if world_size() > 1 else part


# torch's differentiable collectives have changed names with most versions (torch.distributed.nn, functional_collectives), and
# their gradients differ in a factor of the number of processes. tests/distributed/test_methods_on_ranks.py holds ours.
class AllReduce(Function):
    """Sum over all processes, forward and backward."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        result = part.clone(memory_format=torch.contiguous_format)  # gloo refuses strided tensors
        dist.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return AllReduce.forward(ctx, gradients[0])


class Gather(Function):
    """All-gather; backward, this process's part of the summed gradients."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, dim: int) -> Tensor:
        ctx.dim, ctx.size = dim, part.shape[dim]
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        summed = AllReduce.forward(ctx, gradients[0])
        return summed.narrow(ctx.dim, dist.get_rank() * ctx.size, ctx.size), None
