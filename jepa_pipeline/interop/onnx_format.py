"""Encoders as ONNX graphs, which onnxruntime and others run without torch."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jepa_pipeline.config.errors import UserError, first_line
from jepa_pipeline.interop import preprocessing
from jepa_pipeline.interop.format import PARITY, ExportFormat, ExportRequest, Network, encoder_outputs
from jepa_pipeline.interop.torch_format import trace
from jepa_pipeline.redaction import redact

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

GRAPH = "model.onnx"
WEIGHTS = GRAPH + ".data"
"""Beside the graph, if both together are too large for one file."""
LARGEST_FILE = 2_000_000_000
"""Bytes of weights in one file: the limit of protobuf is 2 GiB, of which the graph takes some."""
OPSET = 20
NEEDED = ("onnx", "onnxscript", "onnxruntime")
OUTPUTS = ("tokens", "pooled")


def check(request: ExportRequest) -> None:
    """Accept any encoder, if the packages are there.

    Raises:
        UserError: a package is missing.
    """
    if missing := [package for package in NEEDED if find_spec(package) is None]:
        raise UserError(f"exporting to ONNX needs packages that are not installed: pip install {' '.join(missing)}")


def write(folder: Path, request: ExportRequest) -> None:
    """Write model.onnx, with the preprocessing in its metadata, and the weights in a second file if they are large.

    Raises:
        UserError: an operation has no form in ONNX.
        onnx.checker.ValidationError: it is not a valid graph.
    """
    import onnx

    traced = trace(request)
    try:
        with without_remarks():
            program = torch.onnx.export(
                traced,
                output_names=OUTPUTS,
                dynamic_shapes={"pixels": {0: "batch"}},
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise UserError(
            f"torch.onnx cannot express the encoder of {request.run} ({first_line(error)}): export it with --to torch, timm or jepa"
        ) from error
    assert program is not None
    for name, text in preprocessing.metadata(request).items():
        program.model.metadata_props[name] = redact(text)
    program.save(folder / GRAPH, external_data=weighs(request) > LARGEST_FILE)
    onnx.checker.check_model(folder / GRAPH, full_check=True)


@contextmanager
def without_remarks() -> Iterator[None]:
    """Keep from the console what the exporter says of its own code and of what it leaves as it is; errors are raised."""
    optimizer = logging.getLogger("onnxscript.optimizer")
    level = optimizer.level
    optimizer.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec", FutureWarning)  # torch 2.13
            yield
    finally:
        optimizer.setLevel(level)


def weighs(request: ExportRequest) -> int:
    """Return the bytes of all weights in the exported type."""
    state = [*request.encoder.parameters(), *request.encoder.buffers()]
    return sum(tensor.numel() for tensor in state) * (2 if request.dtype == "fp16" else 4)


def load(folder: Path) -> Network:
    """Return the graph of a folder in onnxruntime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / GRAPH, providers=["CPUExecutionProvider"])
    return lambda pixels: run(session, pixels)


def run(session: "InferenceSession", pixels: Tensor) -> dict[str, Tensor]:
    found = session.run(OUTPUTS, {"pixels": pixels.numpy()})
    return {name: torch.from_numpy(output) for name, output in zip(OUTPUTS, found, strict=True)}


def usage(request: ExportRequest, difference: float) -> str:
    """Return how to load it; see ExportFormat."""
    photo = "from PIL import Image\n" if preprocessing.takes_photos(request) else ""
    code = f"""import numpy as np
import onnxruntime
{photo}
session = onnxruntime.InferenceSession("{GRAPH}", providers=["CPUExecutionProvider"])

{preprocessing.code(request)}
tokens, pooled = session.run(["tokens", "pooled"], {{"pixels": pixels}})  # "B N D" and "B D\""""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *NEEDED))
    files = f" Its weights are in `{WEIGHTS}`, which must lie beside it." if weighs(request) > LARGEST_FILE else ""
    half = " Weights and computations are fp16, inputs and outputs fp32." if request.dtype == "fp16" else ""
    return (
        f"```python\n{code}\n```\n\n"
        f"The graph has opset {OPSET} and was written with {versions}. It takes batches of any size.{files}{half} "
        f"{preprocessing.words(request)} The graph's metadata (`session.get_modelmeta().custom_metadata_map`) holds these values "
        f"too. `pooled` is {request.encoder.pooling}.\n\n"
        f"`{PARITY}` holds pixels and both outputs of the pretrained encoder in fp32. Before this folder was published, "
        "onnx.checker accepted the graph, and onnxruntime recomputed them in a separate process with two batch sizes; the largest "
        f"difference is {difference:.1e}."
    )


ONNX = ExportFormat(
    "a graph for onnxruntime",
    "onnxruntime",
    check,
    write,
    encoder_outputs,
    load,
    usage,
    dtypes=("fp32", "fp16"),
    runs_class=False,
)
