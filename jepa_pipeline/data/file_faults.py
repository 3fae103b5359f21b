"""Files that cannot be opened, told apart from disks that fail."""

import errno
import stat
from pathlib import Path
from typing import NamedTuple

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.media_folder import to_utf8

OWN_FAULTS = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)
"""Errors of a single file, which last; any other, such as EIO, is one of the disk or of this machine, and may pass."""


class Fault(NamedTuple):
    """Why a path is not a file that can be opened, and what helps."""

    reason: str
    cure: str


def find_fault(path: Path) -> Fault | None:
    """Return why a path is not a file that can be opened; None if it is one, as far as can be told without opening it.

    Raises:
        UserError: the disk cannot tell.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno not in OWN_FAULTS:
            raise refuse_disk(path, error) from error
        if error.errno == errno.ENOENT and path.is_symlink():  # as git-annex and DVC leave where a file was not fetched
            reason = f"it is a link to {to_utf8(str(path.readlink()))}: {error.strerror}"
            return Fault(reason, "get the file (such as by `git annex get` or `dvc pull`), or delete the link")
        return Fault(f"{error.strerror}", "fix that, or move it away")
    if stat.S_ISREG(mode):
        return None
    return Fault("it is not a file, but a pipe, a socket or a device", "move it away")  # reading it might never end


def read_state(path: Path) -> str:
    """Return what differs where a file has changed: its size and time, or the number of the error if it cannot be opened.

    Raises:
        UserError: the disk cannot tell.
    """
    try:
        found = path.stat()
    except OSError as error:
        if error.errno not in OWN_FAULTS:
            raise refuse_disk(path, error) from error
        return f"error {error.errno}"
    return f"{found.st_size} {found.st_mtime_ns}"


def refuse_disk(path: Path, error: OSError) -> UserError:
    """Return the sentence for a disk that fails."""
    return UserError(f"{to_utf8(str(path))} cannot be read ({error.strerror}): fix that, then run the same command again")
