"""Whether the run folder's file system can be trusted with checkpoints: rights, renames, room, speed, clock."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from jepa_pipeline.checks.result import Finding, size
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.trainer import STOP_WITHIN_S

BLOCK, BLOCKS, FEW_BLOCKS = 4 << 20, 16, 2
SKEW_S = 2.0
CURE = "choose another folder with output=FOLDER, or see to its rights"


class Disk(NamedTuple):
    """What was found, and how long a checkpoint takes to write, where that is known."""

    findings: list[Finding]
    save_s: float | None = None


def check_storage(folder: Path, config: RunConfig | None, checkpoint_bytes: int | None, quick: bool) -> Disk:
    """Write, rename and measure in the run folder; nothing is left there."""
    try:
        with scratch(folder) as place:
            started = time.perf_counter()
            skew = write_file(place / "data", FEW_BLOCKS if quick else BLOCKS)
            speed = (FEW_BLOCKS if quick else BLOCKS) * BLOCK / (time.perf_counter() - started)
            findings = [Finding("run folder", "ok", f"{folder} can be written"), check_renames(place), check_clock(folder, skew)]
    except OSError as error:
        return Disk([Finding("run folder", "fail", f"{folder} cannot be written ({error.strerror})", CURE)])
    if config is None or checkpoint_bytes is None:
        return Disk([*findings, Finding("write speed", "ok", f"{size(speed)}/s")])
    save_s = checkpoint_bytes / speed
    space = check_space(config, checkpoint_bytes)
    return Disk([*findings, space, check_speed(checkpoint_bytes, speed)], save_s)


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """An empty folder in one that may not be there yet; afterwards all is as before.

    Raises:
        OSError: it cannot be made.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    place = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=".doctor-", dir=folder))
        yield place
    finally:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)
        remove_empty(made)


def remove_empty(folders: list[Path]) -> None:
    """Remove those that are empty, innermost first."""
    with suppress(OSError):
        for path in folders:
            path.rmdir()


def write_file(path: Path, blocks: int) -> float:
    """Write and sync a file. Returns by how many seconds the file system's clock is ahead of this machine's."""
    block = os.urandom(BLOCK)
    with path.open("wb", buffering=0) as file:
        for _ in range(blocks):
            file.write(block)
        os.fsync(file.fileno())
    (path.parent / "clock").write_bytes(b"")
    return (path.parent / "clock").stat().st_mtime - time.time()


def check_renames(place: Path) -> Finding:
    """Whether a file, a folder and a link can take the place of what was there, as checkpoints need it."""
    try:
        (place / "old").write_text("old")
        (place / "new").write_text("new")
        (place / "new").replace(place / "old")
        (place / "step.partial").mkdir()
        (place / "step.partial" / "state").write_text("state")
        (place / "step.partial").rename(place / "step")
        for name in ("a", "b"):
            (place / ".last").symlink_to(name)
            (place / ".last").replace(place / "last")
    except OSError as error:
        return unfit(f"renaming failed ({error.strerror})")
    seen = sorted(path.name for path in place.iterdir())
    if (place / "old").read_text() != "new" or (place / "last").readlink() != Path("b") or {"new", ".last"} & set(seen):
        return unfit("a renamed file did not take the place of the one before")
    if (place / "step" / "state").read_text() != "state":
        return unfit("a renamed folder lost its file")
    return Finding("renames", "ok", "files, folders and links can be renamed, as whole checkpoints need it")


def unfit(text: str) -> Finding:
    return Finding("renames", "fail", text, "choose an output on a POSIX file system, such as NFS, Lustre, ext4 or XFS")


def check_clock(folder: Path, skew_s: float) -> Finding:
    """The file system's clock against this machine's."""
    if abs(skew_s) <= SKEW_S:
        return Finding("clock", "ok", f"the clock of {folder} is within {SKEW_S:g} s of this machine's")
    word = "ahead of" if skew_s > 0 else "behind"
    text = f"the clock of {folder} is {abs(skew_s):.0f} s {word} this machine's, so that times of files mislead"
    return Finding("clock", "warn", text, "ask an administrator to synchronize the clocks (NTP)")


def check_space(config: RunConfig, checkpoint_bytes: int) -> Finding:
    """Free room against the checkpoints that are kept, and the one that is being written. Quotas are not asked."""
    folder = config.folder
    present = sum(path.stat().st_size for path in folder.glob("checkpoints/step-*/**/*") if path.is_file())
    free = free_bytes(folder) + present
    everything = checkpoints_kept(config) * checkpoint_bytes
    each = f"a checkpoint has about {size(checkpoint_bytes)}"
    text = f"{size(free)} free in {folder}; {each}, and up to {checkpoints_kept(config)} lie there: {size(everything)}"
    if free >= everything:
        return Finding("space", "ok", text)
    return Finding("space", "fail", text, "make room, choose another folder with output=FOLDER, or lower checkpoint.keep_last")


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder that may not be there yet."""
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free


def checkpoints_kept(config: RunConfig) -> int:
    """The most that ever lie there, with the one that is being written."""
    return config.checkpoint.keep_last + 1


def check_speed(checkpoint_bytes: int, speed: float) -> Finding:
    """Bytes a second, synced, against the time that a run has to leave."""
    save_s = checkpoint_bytes / speed
    text = f"{size(speed)}/s; a checkpoint of {size(checkpoint_bytes)} takes about {save_s:.1f} s"
    if save_s > STOP_WITHIN_S:
        text += f", but a run is killed {STOP_WITHIN_S:g} s after a stop signal"
        return Finding("write speed", "fail", text, "choose a faster disk with output=FOLDER")
    return Finding("write speed", "ok", text)
