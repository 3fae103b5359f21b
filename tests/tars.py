"""Tars of members that a test gives."""

import io
import json
import tarfile
from pathlib import Path


def pack(path: Path, members: dict[str, bytes], tar_format: int = tarfile.PAX_FORMAT) -> Path:
    """Write a tar of files with these names and contents, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def forget_hashes(folder: Path) -> None:
    """Make a manifest that of an earlier version, which has no hashes of the indexes."""
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    for shard in values["shards"]:
        shard.pop("index_sha256")
    path.write_text(json.dumps(values))
