"""Checks of the run folder's file system: permissions, renames, space, speed and clock."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from jepa_pipeline.checks.result import CheckResult, format_bytes
from jepa_pipeline.config.trainer import STOP_WITHIN_S, CheckpointConfig
from jepa_pipeline.files import glob_tolerant

BLOCK_BYTES, BLOCKS, FEW_BLOCKS = 4 << 20, 16, 2
MAX_SKEW_S = 2.0
CURE = "choose another folder with output=FOLDER, or check its permissions"


class StorageReport(NamedTuple):
    """The results, and the seconds that writing a checkpoint takes, if known."""

    results: list[CheckResult]
    save_s: float | None = None


def check_storage(folder: Path, checkpoint: CheckpointConfig | None, checkpoint_bytes: int | None, quick: bool) -> StorageReport:
    """Write, rename and measure in a run folder, and leave it as it was.

    Args:
        folder: the run folder, which may not exist yet.
        checkpoint: which checkpoints are kept; None: no run.
        checkpoint_bytes: size of a checkpoint; None: unknown.
        quick: write fewer bytes.
    """
    blocks = FEW_BLOCKS if quick else BLOCKS
    try:
        with temporary_folder(folder) as temporary:
            start = time.perf_counter()
            skew = write_file(temporary / "data", blocks)
            speed = blocks * BLOCK_BYTES / (time.perf_counter() - start)
            writable = CheckResult("run folder", "ok", f"{folder} can be written")
            results = [writable, check_renames(temporary), check_clock(folder, skew)]
    except OSError as error:
        return StorageReport([CheckResult("run folder", "fail", f"{folder} cannot be written ({error.strerror})", CURE)])
    if checkpoint is None or checkpoint_bytes is None:
        return StorageReport([*results, CheckResult("write speed", "ok", f"{format_bytes(speed)}/s")])
    results += [check_space(folder, checkpoint, checkpoint_bytes), check_speed(checkpoint_bytes, speed)]
    return StorageReport(results, checkpoint_bytes / speed)


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder inside one that may not exist yet, and remove all that was created.

    Raises:
        OSError: it cannot be created.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".doctor-", dir=folder))
        yield temporary
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        remove_if_empty(created)


def remove_if_empty(folders: list[Path]) -> None:
    """Remove nested folders, innermost first, up to one that is not empty."""
    with suppress(OSError):
        for path in folders:
            path.rmdir()


def write_file(path: Path, blocks: int) -> float:
    """Write and sync a file, and return by how many seconds the file system's clock is ahead of this machine's."""
    block = os.urandom(BLOCK_BYTES)  # random, because file systems may compress
    with path.open("wb", buffering=0) as file:
        for _ in range(blocks):
            file.write(block)
        os.fsync(file.fileno())
    (path.parent / "clock").write_bytes(b"")
    return (path.parent / "clock").stat().st_mtime - time.time()


def check_renames(folder: Path) -> CheckResult:
    """Check that a file, a folder and a link can be renamed, and replace existing ones, as checkpoints need."""
    try:
        (folder / "old").write_text("old")
        (folder / "new").write_text("new")
        (folder / "new").replace(folder / "old")
        (folder / "step.partial").mkdir()
        (folder / "step.partial" / "state").write_text("state")
        (folder / "step.partial").rename(folder / "step")
        for target in ("a", "b"):
            (folder / ".last").symlink_to(target)
            (folder / ".last").replace(folder / "last")
    except OSError as error:
        return rename_failure(f"renaming failed ({error.strerror})")
    left = {path.name for path in folder.iterdir()} & {"new", ".last"}
    if (folder / "old").read_text() != "new" or (folder / "last").readlink() != Path("b") or left:
        return rename_failure("a renamed file did not replace the existing one")
    if (folder / "step" / "state").read_text() != "state":
        return rename_failure("a renamed folder lost its file")
    return CheckResult("renames", "ok", "files, folders and links can be renamed, as checkpoints need")


def rename_failure(text: str) -> CheckResult:
    return CheckResult("renames", "fail", text, "choose an output on a POSIX file system, such as NFS, Lustre, ext4 or XFS")


def check_clock(folder: Path, skew_s: float) -> CheckResult:
    """Compare the file system's clock with this machine's."""
    if abs(skew_s) <= MAX_SKEW_S:
        return CheckResult("clock", "ok", f"the clock of {folder} is within {MAX_SKEW_S:g} s of this machine's")
    direction = "ahead of" if skew_s > 0 else "behind"
    text = f"the clock of {folder} is {abs(skew_s):.0f} s {direction} this machine's, so file times are misleading"
    return CheckResult("clock", "warn", text, "ask an administrator to synchronize the clocks (NTP)")


def check_space(folder: Path, checkpoint: CheckpointConfig, checkpoint_bytes: int) -> CheckResult:
    """Check that the checkpoints that are kept, and the one being written, fit on the disk; quotas are not considered."""
    free = free_bytes(folder)
    for path in glob_tolerant(folder, "checkpoints/step-*/**/*"):
        with suppress(FileNotFoundError):  # a run has just replaced it
            free += path.stat().st_size if path.is_file() else 0
    count = max_checkpoints(checkpoint)
    text = (
        f"{format_bytes(free)} are free in {folder}; up to {count} checkpoints of about {format_bytes(checkpoint_bytes)} take "
        f"{format_bytes(count * checkpoint_bytes)}"
    )
    if free >= count * checkpoint_bytes:
        return CheckResult("space", "ok", text)
    return CheckResult(
        "space", "fail", text, "free some space, choose another folder with output=FOLDER, or lower checkpoint.keep_last"
    )


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of a folder that may not exist yet."""
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free


def max_checkpoints(checkpoint: CheckpointConfig) -> int:
    """Return the most checkpoints that exist at a time, including the one being written."""
    return checkpoint.keep_last + 1


def check_speed(checkpoint_bytes: int, speed: float) -> CheckResult:
    """Compare the time to write a checkpoint, at `speed` bytes per second, with the time a stopped run has."""
    save_s = checkpoint_bytes / speed
    text = f"{format_bytes(speed)}/s; a checkpoint of {format_bytes(checkpoint_bytes)} takes about {save_s:.1f} s"
    if save_s > STOP_WITHIN_S:
        text += f", but a run is killed {STOP_WITHIN_S:g} s after a stop signal"
        return CheckResult("write speed", "fail", text, "choose a faster disk with output=FOLDER")
    return CheckResult("write speed", "ok", text)
