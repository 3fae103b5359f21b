"""What many processes share. Each function here is the identity in a single process."""

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
from torch.distributed.tensor import DTensor

LEFT_TO_THE_WATCH = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0", "TORCH_NCCL_ENABLE_MONITORING": "0"}
"""Unless they are set: NCCL does not abort a process that has lost another, so that the watch can say which and give the job up."""
LOST = ("gloo", "Application timeout", "pair closure", "Connection closed", "Connection reset", "NCCL")
"""Words of the errors of a collective that another process has left."""


class Groups:
    """The groups of this process: `control` for small objects and flags on the host, beside those that carry tensors."""

    control: ProcessGroup | None = None
    timeout = timedelta(minutes=30)
    met = False
    """Whether this process has been one of several. Such a one is to end by os._exit: gloo's threads may abort a normal exit."""


def join(store: Store, rank: int, size: int, device: str, timeout_s: float) -> None:
    """Become one of `size` processes that meet at a store; tensors on CPUs go by gloo, those on GPUs by NCCL.

    timeout_s: seconds after which a collective gives up.
    """
    Groups.timeout = timeout = timedelta(seconds=timeout_s)
    for name, value in LEFT_TO_THE_WATCH.items():
        os.environ.setdefault(name, value)
    if device == "cuda":
        place = torch.device("cuda", torch.cuda.current_device())
        dist.init_process_group("cpu:gloo,cuda:nccl", store=store, rank=rank, world_size=size, timeout=timeout, device_id=place)
    else:
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timeout)
    Groups.control, Groups.met = host_group(), True


def leave() -> None:
    """Part from the others, at once."""
    Groups.control = None
    dist.destroy_process_group()


def host_group() -> ProcessGroup | None:
    """A group of all processes of its own, on the host, such as a thread needs; None in a single process. All must call it."""
    if world_size() == 1:
        return None
    group = dist.new_group(backend="gloo", timeout=Groups.timeout)
    assert isinstance(group, ProcessGroup)
    return group


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def collect(value: Any, group: ProcessGroup | None = None) -> list[Any]:
    """Every process's value, of any kind, in order of rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=group or Groups.control)
    return values


def barrier(group: ProcessGroup | None = None) -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier(group=group or Groups.control)


def lost_contact(error: Exception) -> bool:
    """Whether an error is no fault of this process: another one could not be reached any more."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and any(word in str(error) for word in LOST))


def is_dealt(tensor: Tensor) -> bool:
    """Whether a tensor is dealt out to several processes."""
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that is dealt out to several, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that is dealt out to several processes, on each. All must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def mean_over_ranks(values: Mapping[str, Float[Tensor, ""]]) -> dict[str, float]:
    """The mean of each named scalar over all processes, which all name the same ones; waits for the device."""
    if not values:
        return {}
    together = torch.stack([value.double() for value in values.values()]).cpu()
    if world_size() > 1:
        dist.all_reduce(together, group=Groups.control)
        together /= world_size()
    return dict(zip(values, together.tolist(), strict=True))


class Flags:
    """Whole numbers of which all processes learn the largest, at one call after the one that brought them.

    Nobody waits: what was brought at the last call has arrived by now. In a single process it is what is brought now.
    """

    def __init__(self) -> None:
        self.sent: tuple[Tensor, Any] | None = None

    def exchange(self, mine: list[int]) -> list[int]:
        """Bring these, and learn what all brought at the call before; zeros at the first."""
        if world_size() == 1:
            return mine
        arrived = [0] * len(mine)
        if self.sent is not None:
            flags, work = self.sent
            work.wait()
            arrived = flags.tolist()
        flags = torch.tensor(mine)
        self.sent = flags, dist.all_reduce(flags, dist.ReduceOp.MAX, group=Groups.control, async_op=True)
        return arrived

    def settle(self) -> None:
        """Wait for what is on its way, so that the processes may part."""
        if self.sent is not None:
            self.sent[1].wait()
            self.sent = None


def gather(part: Float[Tensor, "..."], dim: int = 0) -> Float[Tensor, "..."]:
    """Every process's part along a dimension, in order of rank; all parts are of one size.

    Differentiable: the gradient of a part is the sum over what all processes make of it. Where each computes the same loss of
    the whole, the mean of their parameters' gradients, which DDP takes, is then the gradient of that loss.
    """
    return Gather.apply(part, dim) if world_size() > 1 else part


def total(part: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The sum over all processes, differentiable in the same sense."""
    return Total.apply(part) if world_size() > 1 else part


class Total(Function):
    """All-reduce, there and back."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        whole = part.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return Total.forward(ctx, gradients[0])


class Gather(Function):
    """All-gather; back, the sum of all gradients, of which each process takes its part."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, dim: int) -> Tensor:
        ctx.dim, ctx.size = dim, part.shape[dim]
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = Total.forward(ctx, gradients[0])
        return whole.narrow(ctx.dim, dist.get_rank() * ctx.size, ctx.size), None
