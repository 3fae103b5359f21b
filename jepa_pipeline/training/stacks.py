"""The file in a run folder that says where every thread of a process was: nobody can read that on a terminal."""

import faulthandler
from contextlib import suppress
from pathlib import Path
from typing import IO


class StacksFile:
    """A file for the stacks of all threads of a process. A disk that refuses it is no error: there is one already."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> IO[str] | None:
        """Return the file, open at its end, in its folder; None if it cannot be written.

        What an earlier start of the run has written stays: it says why that one ended.
        """
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return self.path.open("a")

    def write(self, header: str) -> bool:
        """Write a header and the stacks, even of a thread that holds Python's lock; return whether they are written."""
        file = self.open()
        if file is None:
            return False
        with suppress(OSError), file:
            file.write(header)
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
            return True
        return False

    def remove_empty(self) -> None:
        """Delete the file, and its folder, if nothing was written."""
        remove_if_empty(self.path)


def remove_empty_files(folder: Path) -> None:
    """Delete the files that earlier starts, which were killed, have left without a line, and their folder if none is left."""
    for path in list(folder.glob("rank-*.txt")):
        remove_if_empty(path)
    with suppress(OSError):
        folder.rmdir()


def remove_if_empty(path: Path) -> None:
    with suppress(OSError):
        if not path.stat().st_size:
            path.unlink()
        path.parent.rmdir()
