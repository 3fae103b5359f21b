"""What can be wrong with a shard, one sentence each."""

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.decode import decode
from jepa_pipeline.data.index import ShardIndex, index_shard
from jepa_pipeline.data.manifest import Shard
from jepa_pipeline.data.shards import OpenShard


def check_shard(folder: Path, classes: int | None, shard: Shard) -> list[str]:
    """Everything wrong with one shard, read whole: size, SHA-256, index, each image decoded, each label below `classes`."""
    tar = folder / shard.file
    if not tar.is_file():
        return [f"{shard.file} is missing"]
    problems = [*file_problems(tar, shard)]
    try:
        opened = OpenShard(tar)
    except UserError as error:
        problems.append(str(error))
    else:
        problems += [*index_problems(tar, shard, opened.index), *sample_problems(opened, classes)]
    return [f"{shard.file}: {problem}" for problem in problems]


def file_problems(tar: Path, shard: Shard) -> Iterator[str]:
    size = tar.stat().st_size
    if size != shard.bytes:
        yield f"it has {size} bytes, the manifest says {shard.bytes}"
    with tar.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != shard.sha256:
        yield f"its SHA-256 is {digest[:12]}..., the manifest says {shard.sha256[:12]}..."


def index_problems(tar: Path, shard: Shard, index: ShardIndex) -> Iterator[str]:
    if len(index.keys) != shard.samples:
        yield f"its index lists {len(index.keys)} samples, the manifest says {shard.samples}"
    try:
        if index_shard(tar) != index:
            yield "the index beside it is not the index of this tar"
    except (tarfile.ReadError, ValueError) as error:
        yield f"it is not a whole tar ({error})"


def sample_problems(opened: OpenShard, classes: int | None) -> Iterator[str]:
    for member, (key, label) in enumerate(zip(opened.index.keys, opened.index.labels, strict=True)):
        try:
            decode(opened.image(member))
        except ValueError as error:
            yield f"sample {key} does not decode ({error})"
        if classes is None and label is not None:
            yield f"sample {key} has label {label}, the manifest names no classes"
        if classes is not None and (label is None or not 0 <= label < classes):
            yield f"sample {key} has label {label}, the manifest names {classes} classes"
