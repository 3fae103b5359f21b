"""Local shards and their indexes as files, compared with the manifest: their sizes and, on request, their hashes."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.index import index_path
from jepa_pipeline.data.manifest import Manifest, Shard, locate_tars
from jepa_pipeline.data.remote import is_remote
from jepa_pipeline.data.worker_pool import available_cores
from jepa_pipeline.files import sha256_of
from jepa_pipeline.redaction import redact


def require_files(location: str, manifest: Manifest, hashes: bool = False, progress: Callable[[], object] = lambda: None) -> None:
    """Check that the local files of a data set are those of its manifest.

    Args:
        location: folder or URL of the manifest.
        manifest: of the data set.
        hashes: read all shards and compare their SHA-256, not their sizes alone.
        progress: called after each shard that was read.

    Raises:
        UserError: a shard or an index is another one.
    """
    wrong = wrong_sizes(location, manifest) or (wrong_hashes(location, manifest, progress) if hashes else [])
    if wrong:
        others = f", and {len(wrong) - 1} more files differ" if len(wrong) > 1 else ""
        raise UserError(
            f"{redact(location)} does not hold the samples of its manifest: {wrong[0]}{others}: copy these files again, or "
            "make the data set anew"
        )


def wrong_sizes(location: str, manifest: Manifest) -> list[str]:
    """Return a sentence for each local shard that is missing or has another size."""
    tars = locate_tars(location, manifest)
    return (
        [] if is_remote(tars) else [text for shard in manifest.shards if (text := check_size(Path(tars) / shard.file, shard.bytes))]
    )


def check_size(path: Path, expected: int) -> str:
    """Return what is wrong with the size of a shard; "" if nothing is."""
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return "" if size == expected else f"{path.name} has {size:,} bytes, the manifest says {expected:,}"


def wrong_hashes(location: str, manifest: Manifest, progress: Callable[[], object] = lambda: None) -> list[str]:
    """Return a sentence for each local shard or index with another SHA-256."""
    tars = locate_tars(location, manifest)

    def compare(shard: Shard) -> list[str]:
        files: list[tuple[Path, str | None]] = [] if is_remote(tars) else [(Path(tars) / shard.file, shard.sha256)]
        if not is_remote(location):
            files.append((index_path(Path(location) / shard.file), shard.index_sha256))
        found = [check_hash(path, expected) for path, expected in files if expected is not None]
        progress()
        return [*filter(None, found)]

    with ThreadPoolExecutor(available_cores()) as pool:  # hashing leaves Python's lock to the others
        return [text for texts in pool.map(compare, manifest.shards) for text in texts]


def check_hash(path: Path, expected: str) -> str:
    """Return what is wrong with the hash of a file; "" if nothing is."""
    try:
        digest = sha256_of(path)
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return "" if digest == expected else f"the SHA-256 of {path.name} is {digest[:12]}, the manifest says {expected[:12]}"


def describe_unhashed(location: str, manifest: Manifest) -> Iterator[str]:
    """Yield a sentence if the manifest cannot tell whether the indexes beside it, in which the labels are, are its own."""
    unknown = sum(shard.index_sha256 is None for shard in manifest.shards)
    if unknown and not is_remote(location):
        yield (
            f"{location}: its manifest was made by an earlier version and has no hash of its index files, so that changed "
            f"labels would not be noticed; `jepa shards check {location}` compares them with the tars"
        )
