"""The entry point of a job: a command line of `jepa`, in the process that Slurm started."""

import runpy
import sys
from collections.abc import Sequence

from submitit.helpers import Checkpointable


class Command(Checkpointable):
    """A command line of `jepa`, with the same exit code. Asked to stop, submitit requeues it from its beginning.

    `jepa pretrain` replaces submitit's signal handlers by its own, and resumes from its checkpoint.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)

    def __call__(self) -> None:
        sys.argv = ["jepa", *self.words]
        try:
            runpy.run_module("jepa_pipeline", run_name="__main__")
        except SystemExit as error:
            # exit code 0 must not end the process: submitit writes the job's result after this call
            if error.code not in (None, 0):
                raise
