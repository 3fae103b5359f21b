"""Import torchvision, and fix it if its compiled operators do not load.

A CUDA build of torchvision cannot load its operators beside a CPU build of torch, and then fails on import because it registers
fake implementations of operators that nobody defined. timm and torchmetrics (through lightning) import torchvision, so they fail
with it. This package uses none of those operators, and declaring their schemas lets the import succeed. Every file that imports
timm or lightning imports this module first.
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


LIBRARY = import_torchvision()
