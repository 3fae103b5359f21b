"""The place that a command is to write to, checked before anything is read or computed."""

import os
from pathlib import Path

from jepa_pipeline.config.errors import UserError, disk_error, is_disk_error
from jepa_pipeline.files import PARTIAL, name_errors, partial_folder, sweep_beside


def check_place(out: Path, cure: str = "name a place in a folder that you may write to") -> None:
    """Check that a file or folder can be made, with the folders above it; what is made to find that out is deleted.

    Args:
        out: the file or folder.
        cure: what the sentence advises.

    Raises:
        UserError: it is below a file, its name is too long, or the disk or its permissions refuse it.
    """
    place = out.absolute()
    above = next(path for path in place.parents if os.path.lexists(path))
    if not above.is_dir():
        raise UserError(f"{out} cannot be written, because {above} is not a folder: {cure}")
    inside = place.relative_to(above)
    beside = above / inside.parts[0]
    sweep_beside(beside)
    try:
        with name_errors(out), partial_folder(beside) as probe:
            (probe / inside).with_name(place.name + PARTIAL).mkdir(parents=True)  # the longest name that is written
    except OSError as error:
        if is_disk_error(error):
            raise disk_error(error) from None
        raise UserError(f"{out} cannot be written in {above} ({error.strerror}): {cure}") from None
