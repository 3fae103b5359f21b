"""Import torchvision, and fix it if its compiled operators do not load; import timm without wandb.

A CUDA build of torchvision cannot load its operators beside a CPU build of torch, and then fails on import because it registers
fake implementations of operators that nobody defined. timm and torchmetrics (through lightning) import torchvision, so they fail
with it. This package uses none of those operators, and declaring their schemas lets the import succeed. Every file that imports
timm or lightning imports this module first.

timm imports wandb for its own training script. That makes temporary folders which a killed run leaves behind, fails where the disk
of temporary files is full, and takes a tenth of the time of all imports.
"""

import sys

import torch

MISSING = "torchvision::nms does not exist"
SCHEMAS = ("nms", "qnms")


def import_torchvision() -> torch.library.Library | None:
    """Import torchvision; return the library of declared schemas, which must stay alive, or None if none were needed."""
    try:
        import torchvision
    except RuntimeError as error:
        if MISSING not in str(error):
            raise
    else:
        return None
    # The failed import left half-initialized modules behind, which a second import would return.
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in SCHEMAS:
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401

    return library


def import_timm() -> None:
    """Import timm while there is no wandb to be found, unless it is imported already."""
    if "wandb" in sys.modules:
        return
    sys.modules["wandb"] = None  # pyright: ignore[reportArgumentType]  # Python's way to make an import fail
    try:
        import timm  # noqa: F401
    finally:
        del sys.modules["wandb"]


LIBRARY = import_torchvision()
import_timm()
