"""Tensors on disk by torch.distributed.checkpoint: each process writes its part, and reads what it needs of all parts.

Only tensors go this way. Its own way of reading anything else, and its index, is to run a pickle; here the index is read by an
unpickler that knows a few plain records, and other entries are refused.
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
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.tensor import DTensor

from jepa_pipeline.distributed import local, rank, world_size
from jepa_pipeline.training.files import Damage, HashedFiles

INDEX = ".metadata"
RECORDS = {
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
"""All that an index is made of, but for dtypes. None of it does anything but keep or look up values."""

Like = Callable[[str], Tensor | None]
"""Says by its name into whose like a tensor is read, a part of it or on a device; None: all of it, on the CPU."""


class Part(NamedTuple):
    """What this process writes of a tensor."""

    size: torch.Size
    """Of the whole tensor."""
    place: ChunkStorageMetadata
    values: Tensor


def parts_here(tensors: Mapping[str, Tensor]) -> dict[str, Part]:
    """What this process is to write of tensors that all processes know by the same names in the same order.

    Of what several hold alike, one writes, so that no copy is made or written twice; all find the same one without asking.
    """
    parts: dict[str, Part] = {}
    loads: dict[int, list[int]] = {}
    for name, tensor in tensors.items():
        copy, copies = replica(tensor)
        load = loads.setdefault(copies, [0] * copies)
        writer = load.index(min(load))
        load[writer] += tensor.numel() * tensor.element_size()
        if writer == copy:
            parts[name] = Part(tensor.size(), place_of(tensor), local(tensor))
    return parts


def replica(tensor: Tensor) -> tuple[int, int]:
    """Which of the processes that hold the same part of a tensor this one is, and how many there are."""
    if not isinstance(tensor, DTensor):
        return rank(), world_size()
    mesh, copy, copies = tensor.device_mesh, 0, 1
    for dim, placement in enumerate(tensor.placements):
        if placement.is_replicate():
            copy, copies = copy * mesh.size(dim) + mesh.get_local_rank(dim), copies * mesh.size(dim)
    return copy, copies


def place_of(tensor: Tensor) -> ChunkStorageMetadata:
    """Where in the whole tensor this process's part lies."""
    if isinstance(tensor, DTensor):
        return tensor.__create_chunk_list__()[0]  # what torch.distributed.checkpoint asks a tensor that is dealt out
    return ChunkStorageMetadata(torch.Size([0] * tensor.dim()), tensor.size())


def stage(parts: Mapping[str, Part], buffers: dict[str, Tensor]) -> dict[str, Part]:
    """The same parts, copied to the host; into the buffers that are there, page-locked for a GPU."""
    for name in buffers.keys() - parts.keys():
        del buffers[name]
    for name, (_, _, values) in parts.items():
        buffer = buffers.get(name)
        if buffer is None or buffer.shape != values.shape or buffer.dtype != values.dtype:
            buffers[name] = buffer = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
        buffer.copy_(values, non_blocking=True)
    if any(part.values.is_cuda for part in parts.values()):
        torch.cuda.synchronize()
    return {name: part._replace(values=buffers[name]) for name, part in parts.items()}


class PartsPlanner(DefaultSavePlanner):
    """Plans to write parts; those of all processes must make whole tensors."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.parts = parts

    def create_local_plan(self) -> SavePlan:
        self.plan = SavePlan([self.item(name, part) for name, part in self.parts.items()])
        return self.plan

    def item(self, name: str, part: Part) -> WriteItem:
        data = TensorWriteData(part.place, TensorProperties(part.values.dtype), part.size)
        return WriteItem(MetadataIndex(name, part.place.offsets), WriteItemType.SHARD, tensor_data=data)

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        return self.parts[write_item.index.fqn].values


class PartsWriter(dcp.FileSystemWriter):
    """Writes hashed files, and no path or random name into the index."""

    def __init__(self, folder: Path, files: HashedFiles) -> None:
        # Nothing is copied ahead, for that would open the first GPU from the writing thread of every process.
        super().__init__(folder, sync_files=False, per_thread_copy_ahead=0)
        self.fs = files

    def storage_meta(self) -> None:
        return None


def write_parts(folder: Path, parts: Mapping[str, Part], files: HashedFiles, group: ProcessGroup | None) -> None:
    """Write tensors into a folder, which must be there. All processes of the group call it; all raise when one fails."""
    quieten()
    planner, writer = PartsPlanner(parts), PartsWriter(folder, files)
    try:
        dcp.save({}, storage_writer=writer, planner=planner, process_group=group, no_dist=world_size() == 1)
    except CheckpointException as error:
        raise cause(error) from None


def read_tensors(folder: Path, files: set[str], like: Like) -> dict[str, Tensor]:
    """Read tensors by name, whoever wrote them; no process waits for another.

    Raises:
        Damage: the index is none or does not fit the files, or they hold what is no tensor; other errors of reading pass.
    """
    quieten()
    index = read_index(folder, files)
    tensors = {name: template(entry, like(name)) for name, entry in index.state_dict_metadata.items()}
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        dcp.load(dict(tensors), storage_reader=PartsReader(folder, index), planner=planner, no_dist=True)
    except CheckpointException as error:
        first = cause(error)
        if isinstance(first, EOFError | pickle.UnpicklingError):
            raise Damage(f"{INDEX} does not fit the files: {first}") from None
        raise first from None
    return tensors


def template(entry: Any, wanted: Tensor | None) -> Tensor:
    """Where a tensor is read to. One of another shape than is wanted is read whole; whoever takes it will say so."""
    dtype = entry.properties.dtype
    if wanted is None or wanted.shape != entry.size:
        return torch.empty(entry.size, dtype=dtype)
    return torch.empty_like(wanted, dtype=dtype, requires_grad=False)


class PartsReader(dcp.FileSystemReader):
    """Reads by an index that was read before."""

    def __init__(self, folder: Path, index: Metadata) -> None:
        super().__init__(folder)
        self.index = index

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self.index


class IndexUnpickler(pickle.Unpickler):
    """Knows the records of an index, and nothing that could do something."""

    def find_class(self, module: str, name: str, /) -> Any:
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if dtype or name in RECORDS.get(module, ()):
            return super().find_class(module, name)
        raise Damage(f"{INDEX} holds {module}.{name}, which is no part of an index")


def read_index(folder: Path, files: set[str]) -> Metadata:
    """Which part of which tensor lies where.

    Raises:
        Damage: it holds anything but tensors in the files of the checkpoint.
    """
    with (folder / INDEX).open("rb") as file:
        try:
            index = IndexUnpickler(file).load()
        except (Damage, OSError, MemoryError, ImportError):
            raise
        except Exception as error:  # whatever a pickle that is none may raise
            raise Damage(f"{INDEX} cannot be read: {error}") from None
    try:
        tensors = all(isinstance(entry, TensorStorageMetadata) for entry in index.state_dict_metadata.values())
        inside = all(place.relative_path in files and not place.transform_descriptors for place in index.storage_data.values())
    except AttributeError:
        raise Damage(f"{INDEX} is no index") from None
    if not tensors or not inside:
        raise Damage(f"{INDEX} names other things than tensors in the files beside it")
    chunks = {MetadataIndex(name, chunk.offsets) for name, entry in index.state_dict_metadata.items() for chunk in entry.chunks}
    if missing := chunks - index.storage_data.keys():
        raise Damage(f"{INDEX} does not fit the files: nothing is said of where {min(part.fqn for part in missing)} lies")
    return index


def cause(error: CheckpointException) -> BaseException:
    """What the first process that failed raised."""
    return next(iter(error.failures.values()))[0]


def quieten() -> None:
    """A single process is no mistake, nor is reading without waiting for each other."""
    warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)
