"""Tensors on disk by torch.distributed.checkpoint (DCP): each process writes its shards and reads what it needs of all.

Only tensors go this way, and what DCP would unpickle is read otherwise: its index by an unpickler that knows a few plain
records, and anything that is not a tensor not at all.
"""

import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import (
    DefaultLoadPlanner,
    DefaultSavePlanner,
    create_default_local_save_plan,
)
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, WriteItem
from torch.distributed.tensor import DTensor

from jepa_pipeline.distributed import rank, to_local, world_size
from jepa_pipeline.files import DamagedFile
from jepa_pipeline.training.hashed_files import HashedFiles

INDEX = ".metadata"
# All that DCP pickles into its index besides dtypes; none of it does more than hold or look up values. Should a new torch pickle
# others, read_index refuses its index and says which: tests/training/test_checkpoint.py then fails from its first test on.
INDEX_CLASSES = {
    "torch": ("Size",),
    "torch.serialization": ("_get_layout",),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.distributed.checkpoint.metadata": (
        "_MEM_FORMAT_ENCODING",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "TensorProperties",
        "TensorStorageMetadata",
    ),
}

LoadTargets = Callable[[str], Tensor | None]
"""Return the sharded tensor that a saved tensor is loaded into, by its name in the checkpoint; None for an unsharded one."""


class Shard(NamedTuple):
    """The part of a tensor that this process writes."""

    item: WriteItem
    """Its position in the whole tensor, as DCP plans it."""
    values: Tensor


def plan_shards(tensors: Mapping[str, Tensor]) -> dict[str, Shard]:
    """Return what this process is to write of tensors that all processes name alike and in the same order.

    DCP would decide who writes a replicated tensor only after each process had copied it to the host. Here the replicas take
    turns, the one with the fewest bytes first, which all find alike without communication.
    """
    shards: dict[str, Shard] = {}
    bytes_written: dict[int, list[int]] = {}
    for name, tensor in tensors.items():
        replica, replicas = replica_of(tensor)
        written = bytes_written.setdefault(replicas, [0] * replicas)
        writer = written.index(min(written))
        written[writer] += tensor.numel() * tensor.element_size()
        if writer == replica:
            (item,) = create_default_local_save_plan({name: tensor}, is_coordinator=False).items
            shards[name] = Shard(item, to_local(tensor))
    return shards


def replica_of(tensor: Tensor) -> tuple[int, int]:
    """Return which replica of its shard this process holds, and how many replicas there are."""
    if not isinstance(tensor, DTensor):
        return rank(), world_size()
    mesh, replica, replicas = tensor.device_mesh, 0, 1
    for dim, placement in enumerate(tensor.placements):
        if placement.is_replicate():
            replica, replicas = replica * mesh.size(dim) + mesh.get_local_rank(dim), replicas * mesh.size(dim)
    return replica, replicas


# DCP's own staging (torch.distributed.checkpoint.staging) calls itself experimental and copies whole state dicts.
def stage(shards: Mapping[str, Shard], buffers: dict[str, Tensor]) -> dict[str, Shard]:
    """Copy shards to the host, into the buffers that fit; new buffers are page-locked if the shards are on a GPU."""
    for name in buffers.keys() - shards.keys():
        del buffers[name]
    for name, (_, values) in shards.items():
        buffer = buffers.get(name)
        if buffer is None or buffer.shape != values.shape or buffer.dtype != values.dtype:
            buffers[name] = buffer = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
        buffer.copy_(values, non_blocking=True)
    if any(shard.values.is_cuda for shard in shards.values()):
        torch.cuda.synchronize()
    return {name: Shard(item, buffers[name]) for name, (item, _) in shards.items()}


class ShardPlanner(DefaultSavePlanner):
    """A planner whose plan was made before, when the shards had not yet been copied to the host."""

    def __init__(self, shards: Mapping[str, Shard]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.shards = shards

    def create_local_plan(self) -> SavePlan:
        self.plan = SavePlan([shard.item for shard in self.shards.values()])
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        return self.shards[write_item.index.fqn].values.contiguous()  # as a staged copy is: the same state makes the same files


class ShardWriter(dcp.FileSystemWriter):
    """Writes hashed files."""

    def __init__(self, folder: Path, files: HashedFiles) -> None:
        # per_thread_copy_ahead: copying ahead opens a CUDA stream on the first GPU from the writing thread of every process.
        super().__init__(folder, sync_files=False, per_thread_copy_ahead=0)
        self.fs = files

    def storage_meta(self) -> None:
        """Keep out of the index the path and the random name of a save: the same state makes the same files."""


def write_shards(folder: Path, shards: Mapping[str, Shard], files: HashedFiles, group: ProcessGroup | None) -> None:
    """Write shards into an existing folder. All processes of the group must call it; all raise if one fails."""
    ignore_single_process_warning()
    planner, writer = ShardPlanner(shards), ShardWriter(folder, files)
    try:
        dcp.save({}, storage_writer=writer, planner=planner, process_group=group, no_dist=world_size() == 1)
    except CheckpointException as error:
        raise first_failure(error) from None


def read_tensors(folder: Path, files: set[str], targets: LoadTargets) -> dict[str, Tensor]:
    """Read all tensors by name, whichever processes wrote them; no process waits for another.

    Args:
        folder: the checkpoint.
        files: names of its files, the only ones that are read.
        targets: gives the tensors like which they are read: of a sharded one this process reads its shard alone.

    Raises:
        DamagedFile: the index is none, does not fit the files or names other things than tensors.
        OSError: a file could not be read.
    """
    ignore_single_process_warning()
    index = read_index(folder, files)
    tensors = {name: empty_like(entry, targets(name)) for name, entry in index.state_dict_metadata.items()}
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        dcp.load(dict(tensors), storage_reader=ShardReader(folder, index), planner=planner, no_dist=True)
    except CheckpointException as error:
        failure = first_failure(error)
        if isinstance(failure, EOFError | pickle.UnpicklingError):
            raise DamagedFile(f"{INDEX} does not fit the files: {failure}") from None
        raise failure from None
    return tensors


def empty_like(entry: Any, target: Tensor | None) -> Tensor:
    """Return an empty tensor for an entry of the index, sharded like the target."""
    dtype = entry.properties.dtype
    if target is None or target.shape != entry.size:  # of another shape: init_from fits it as a whole, or refuses it by name
        return torch.empty(entry.size, dtype=dtype)
    return torch.empty_like(target, dtype=dtype, requires_grad=False)


class ShardReader(dcp.FileSystemReader):
    """Reads by an index that was read safely; DCP's own reading of it is a plain pickle.load."""

    def __init__(self, folder: Path, index: Metadata) -> None:
        super().__init__(folder)
        self.index = index

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self.index


class IndexUnpickler(pickle.Unpickler):
    """Unpickles the classes of an index and refuses all others, so that no code of a stranger's checkpoint runs."""

    def find_class(self, module: str, name: str, /) -> Any:
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if dtype or name in INDEX_CLASSES.get(module, ()):
            return super().find_class(module, name)
        raise DamagedFile(f"{INDEX} holds {module}.{name}, which is not part of an index")


def read_index(folder: Path, files: set[str]) -> Metadata:
    """Read which shard of which tensor lies where.

    Raises:
        DamagedFile: it holds anything but tensors in the given files.
    """
    with (folder / INDEX).open("rb") as file:
        try:
            index = IndexUnpickler(file).load()
        except (DamagedFile, OSError, MemoryError, ImportError):
            raise
        except Exception as error:  # arbitrary bytes can raise nearly anything
            raise DamagedFile(f"{INDEX} cannot be read: {error}") from None
    try:
        tensors = all(isinstance(entry, TensorStorageMetadata) for entry in index.state_dict_metadata.values())
        inside = all(info.relative_path in files and not info.transform_descriptors for info in index.storage_data.values())
    except AttributeError:
        raise DamagedFile(f"{INDEX} is not an index") from None
    if not tensors or not inside:
        raise DamagedFile(f"{INDEX} names other things than tensors in the files beside it")
    chunks = {MetadataIndex(name, chunk.offsets) for name, entry in index.state_dict_metadata.items() for chunk in entry.chunks}
    if missing := chunks - index.storage_data.keys():
        raise DamagedFile(f"{INDEX} does not fit the files: it does not say where {min(chunk.fqn for chunk in missing)} lies")
    return index


def first_failure(error: CheckpointException) -> BaseException:
    """Return the error of the first process that failed, out of DCP's error about all of them."""
    return next(iter(error.failures.values()))[0]


def ignore_single_process_warning() -> None:
    """Silence DCP's warning: a single process is no mistake here, nor is reading without waiting for each other."""
    warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)
