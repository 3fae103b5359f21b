"""What a job runs: a command line of `jepa`, in the process that Slurm started."""

import runpy
import sys
from collections.abc import Sequence

from submitit.helpers import Checkpointable


class Command(Checkpointable):
    """The command as on a shell, with the same exit code. Asked to stop, it is queued again from its beginning.

    A pretraining run listens to signals itself, and goes on from its checkpoint.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)

    def __call__(self) -> None:
        sys.argv = ["jepa", *self.words]
        try:
            runpy.run_module("jepa_pipeline", run_name="__main__")
        except SystemExit as leave:
            if leave.code not in (None, 0):
                raise
