"""Encoders as programs of torch.export, which torch runs without this package."""

import json
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.interop import preprocessing
from jepa_pipeline.interop.format import PARITY, ExportFormat, ExportRequest, Network, encoder_outputs

if TYPE_CHECKING:
    from jepa_pipeline.models.interface import BaseEncoder

PROGRAM = "model.pt2"
PREPROCESSING = "preprocessing.json"
"""File within the program."""
EXAMPLES = 3
"""Size of the batch with which it is traced; the program takes any size."""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


class Outputs(nn.Module):
    """An encoder as a function from fp32 pixels to fp32 outputs, computed in the encoder's own dtype."""

    def __init__(self, encoder: "BaseEncoder", dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder, self.dtype = encoder, dtype

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return what `encoder_outputs` returns, from one forward pass."""
        pooled, blocks = self.encoder.pooled_and_intermediates(pixels.to(self.dtype), 1)
        return {"tokens": blocks[-1].float(), "pooled": pooled.float()}


def trace(request: ExportRequest) -> ExportedProgram:
    """Return the encoder as a program for batches of any size, of images or clips of the encoder's own size.

    Raises:
        UserError: some code of a network of timm cannot be traced.
    """
    # here, since loading a program takes no timm
    from jepa_pipeline.models.backbone import TIMM_ERRORS, summarize_error

    config, dtype = request.encoder.config, DTYPES[request.dtype]
    frames = [config.frames] if config.modality.has_time else []
    example = torch.zeros(EXAMPLES, len(request.card.mean), *frames, config.image_size, config.image_size)
    encoder = request.encoder if dtype is torch.float32 else deepcopy(request.encoder).to(dtype)
    network = Outputs(encoder, dtype).eval()
    try:
        program = torch.export.export(network, (example,), dynamic_shapes={"pixels": {0: Dim("batch", min=1)}})
    except TIMM_ERRORS as error:
        raise UserError(
            f"torch.export cannot trace the encoder of {request.run} for batches of any size ({summarize_error(error)}): export it "
            "with --to timm or jepa"
        ) from error
    for node in program.graph.nodes:  # with the paths of this machine
        node.meta.pop("stack_trace", None)
    return program


def check(request: ExportRequest) -> None:
    """Accept any encoder."""


def write(folder: Path, request: ExportRequest) -> None:
    """Write model.pt2, with the preprocessing in it."""
    program = trace(request)
    program.example_inputs = None  # of large clips they take more room than the weights
    torch.export.save(program, folder / PROGRAM, extra_files={PREPROCESSING: json.dumps(preprocessing.describe(request.card))})


def load(folder: Path) -> Network:
    """Return the program of a folder."""
    return torch.export.load(folder / PROGRAM).module()


def usage(request: ExportRequest, difference: float) -> str:
    """Return how to load it; see ExportFormat."""
    photo = "from PIL import Image\n" if preprocessing.takes_photos(request) else ""
    code = f"""import numpy as np
import torch
{photo}
encoder = torch.export.load("{PROGRAM}").module()

{preprocessing.code(request)}
with torch.inference_mode():
    outputs = encoder(torch.from_numpy(pixels))
tokens, pooled = outputs["tokens"], outputs["pooled"]  # "B N D" and "B D\""""
    return (
        f"```python\n{code}\n```\n\n"
        f"It was written with torch {torch.__version__}, the version tested, and takes batches of any size. "
        f"{preprocessing.words(request)} The file `{PREPROCESSING}` of the program (`extra_files` of `torch.export.load`) holds "
        f"these values too. `pooled` is {request.encoder.pooling}.\n\n"
        f"`{PARITY}` holds pixels and both outputs of the pretrained encoder. A separate process recomputed them from the program "
        f"with two batch sizes; the largest difference is {difference:.1e}."
    )


TORCH = ExportFormat("a torch.export program", "torch", check, write, encoder_outputs, load, usage, runs_class=False)
