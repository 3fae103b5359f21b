"""Reads an export in a process of its own: `python -m jepa_pipeline.interop.read_back MODULE FUNCTION FOLDER OUT`.

So that nothing of the process that wrote it helps, such as networks that it registered or patches to a library.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from jepa_pipeline.config.errors import UserError, first_line
from jepa_pipeline.custom import module_paths
from jepa_pipeline.interop.format import PARITY, ExportFormat, Network

ONE = "one "
"""Prefix of the outputs for the first sample by itself."""


def read_back(folder: Path, format: ExportFormat, here: bool = False) -> dict[str, Tensor]:
    """Return the outputs for the stored pixels that a new process computes with an exported network; see `compute`.

    Args:
        folder: the export.
        format: its format.
        here: use this process, not a new one.

    Raises:
        UserError: the network cannot be loaded or computed.
    """
    if here:
        try:
            return load_and_compute(format.load, folder)
        except (RuntimeError, SafetensorError) as error:
            raise cannot_load(format, first_line(error)) from error
    with TemporaryDirectory() as temporary:
        out = Path(temporary) / "outputs.safetensors"
        command = [sys.executable, "-m", __name__, format.load.__module__, format.load.__name__, str(folder), str(out)]
        done = subprocess.run(
            command, env=os.environ | module_paths(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode < 0:
            raise cannot_load(format, f"its process was ended by signal {-done.returncode} (out of memory?)")
        if done.returncode:
            raise cannot_load(format, last_line(done.stderr) or f"its process ended with exit code {done.returncode}")
        return load_file(out)


def cannot_load(format: ExportFormat, reason: str) -> UserError:
    return UserError(f"nothing is exported, because {format.library} cannot load the encoder: {reason}")


def last_line(text: str) -> str:
    """Return the last line that is not empty, which tells the error of a traceback, without the name of this package's class."""
    line = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
    return line.removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")


def load_and_compute(load: Callable[[Path], Network], folder: Path) -> dict[str, Tensor]:
    return compute(load(folder), load_file(folder / PARITY)["pixels"])


@torch.inference_mode()
def compute(network: Network, pixels: Tensor) -> dict[str, Tensor]:
    """Return the outputs for all samples, and those for the first by itself, whose batch has another size."""
    whole, first = network(pixels), network(pixels[:1])
    outputs = {**whole, **{ONE + name: output for name, output in first.items()}}
    return {name: output.float().contiguous().clone() for name, output in outputs.items()}


class Deviation(NamedTuple):
    """Largest difference of an output from what is stored, NaN counts as infinite; and the largest stored value."""

    difference: float
    largest: float


def compare(outputs: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> list[Deviation]:
    """Return the deviation of each output that `compute` gave. Each has its own scale, such as tokens before a norm.

    Raises:
        KeyError: an output is not stored.
    """
    deviations = []
    for name, output in outputs.items():
        expected = stored[name.removeprefix(ONE)]
        expected = expected[:1] if name.startswith(ONE) else expected
        difference = (output - expected).abs() if output.shape == expected.shape else torch.tensor(torch.inf)
        deviations.append(Deviation(float(difference.nan_to_num(nan=torch.inf).max()), float(expected.abs().max())))
    return deviations


def main(module: str, function: str, folder: str, out: str) -> None:
    save_file(load_and_compute(getattr(import_module(module), function), Path(folder)), out)


if __name__ == "__main__":
    main(*sys.argv[1:])
