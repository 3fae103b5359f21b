"""Import torchvision, and mend it where its compiled operators do not load.

A CUDA build of torchvision beside a CPU build of torch cannot load its operators and then fails on import, because it
registers fake versions of operators that nobody defined. timm and torchmetrics (through lightning) import torchvision, so
both would fail with it. The pipeline uses none of those operators: declaring their schemas lets the import succeed.
A room that opens onto timm or lightning imports this module first.
"""

import sys

import torch

MISSING = "torchvision::nms does not exist"
SCHEMAS = ("nms", "qnms")


def mend() -> torch.library.Library | None:
    """Import torchvision; the library that holds the declared schemas where that was needed, which must stay alive."""
    try:
        import torchvision
    except RuntimeError as error:
        if MISSING not in str(error):
            raise
    else:
        return None
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in SCHEMAS:
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401

    return library


LIBRARY = mend()
