"""Write a run's encoder in a format that others load, after checking that it loads as the same encoder."""

from math import isfinite
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.level import Level
from jepa_pipeline.data.unfinished import new_folder
from jepa_pipeline.interop.format import FP16_TOLERANCE, PARITY, RELATIVE_TOLERANCE, TOLERANCE, ExportFormat, ExportRequest
from jepa_pipeline.interop.hf_format import HF
from jepa_pipeline.interop.jepa_format import JEPA
from jepa_pipeline.interop.onnx_format import ONNX
from jepa_pipeline.interop.read_back import compare, read_back
from jepa_pipeline.interop.timm_format import TIMM
from jepa_pipeline.interop.torch_format import TORCH
from jepa_pipeline.models.predictor import Predictor
from jepa_pipeline.models.weights import hash_weights, load_encoder, read_card, save_tensors
from jepa_pipeline.probes.model_card import Origin, model_card
from jepa_pipeline.redaction import redact, remember_secrets
from jepa_pipeline.results.levels import choose_level, level_name
from jepa_pipeline.results.probe_report import load_reports
from jepa_pipeline.training.trained_method import load_method

FORMATS: dict[str, ExportFormat] = {"timm": TIMM, "hf": HF, "onnx": ONNX, "torch": TORCH, "jepa": JEPA}
IMAGES, CLIPS = 4, 2
"""Size of the parity batch."""


def export(
    run: str | Path,
    to: str = "timm",
    out: str | Path | None = None,
    level: Level | None = None,
    dtype: str | None = None,
    predictor: bool = False,
) -> Path:
    """Write the encoder with its preprocessing, its origin and a parity batch; return the folder.

    Args:
        run: a run folder, or the folder of an encoder.
        to: the format, a key of FORMATS.
        out: a new folder; default: RUN/export/FORMAT, or RUN/export/FORMAT-LEVEL for one level of a stack.
        level: the level of a stack that is read, which is written without the levels above it; default: as the encoder's card
            says. A single encoder is its own level 1.
        dtype: type of the weights; default: the format's first.
        predictor: export the run's predictor too, which needs its newest checkpoint.

    Raises:
        UserError: the format, its dtype or the level does not exist, there is no encoder or one that the format cannot hold, a
            package is missing, `out` is not empty or cannot be made, what is loaded from it gives other features, or a file would
            hold a secret.
    """
    if to not in FORMATS:
        choices = ", ".join(f"{name} ({each.description})" for name, each in FORMATS.items())
        raise UserError(f"cannot export to '{to}': choose {choices}")
    format = FORMATS[to]
    dtype = dtype or format.dtypes[0]
    if dtype not in format.dtypes:
        raise UserError(f"cannot export to {to} as {dtype}: choose --dtype {' or '.join(format.dtypes)}")
    run, card = Path(run), read_card(run)
    level = choose_level(card.encoder, level, run)
    trained = load_encoder(run)
    encoder = trained if level is None else trained.truncate(level)
    request = ExportRequest(run, encoder, card.model_copy(update={"encoder": encoder.config}), dtype)
    if predictor:
        request = request._replace(predictor=load_predictor(request, to))
    format.check(request)
    path = run / "config.yaml"
    recipe = path.read_text() if path.is_file() else None
    remember_secrets(recipe)
    origin = Origin(run_hash=hash_weights(trained), level=level, reports=load_reports(run / "probes"), recipe=recipe)
    name = "-".join([to, *([dtype] if dtype != format.dtypes[0] else []), *([level_name(level)] if isinstance(level, int) else [])])
    out = Path(out or run / "export" / name)
    with new_folder(out) as partial:
        format.write(partial, request)
        (partial / PARITY).parent.mkdir()
        save_tensors(partial / PARITY, parity_batch(request, format))
        registered_by = encoder.registered_by() if format.runs_class else None
        difference = check_parity(partial, to, dtype, here=registered_by is not None)
        (partial / "README.md").write_text(model_card(request, format, difference, origin))
        refuse_secrets(partial)
    print(f"exported to {out}: the features that {format.library} gives differ from the encoder's by {difference:.1e} at most")
    if registered_by:
        print(f"verified in this process, because only {registered_by} registers its network; import that module before loading")
    return out


def load_predictor(request: ExportRequest, to: str) -> Predictor:
    """Return the predictor of a run.

    Raises:
        UserError: the format holds none, or the run has none beside this encoder.
    """
    holding = [name for name, format in FORMATS.items() if format.predicted]
    if to not in holding:
        raise UserError(f"--predictor is for --to {' or '.join(holding)}: {to} holds the encoder alone; leave it out")
    if not (request.run / "config.yaml").is_file():
        raise UserError(f"{request.run} is an encoder without the run that holds its predictor: leave --predictor out")
    method = load_method(request.run)
    predictor = getattr(method, "predictor", None)
    if not isinstance(predictor, Predictor):
        raise UserError(f"{request.run} has no predictor of masked tokens: leave --predictor out")
    if hash_weights(method.encoder_to_export) != hash_weights(request.encoder):
        raise UserError(
            f"the newest checkpoint of {request.run} is of another step than its encoder/: run the command of the run again, which "
            "writes the encoder anew, or leave --predictor out"
        )
    return predictor


def refuse_secrets(folder: Path) -> None:
    """Refuse a folder to be published in which a secret is left, such as a token of the run's configuration.

    Raises:
        UserError: a file holds one.
    """
    # The texts in graphs and programs are names of weights, and the preprocessing, which is in README.md too.
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".onnx", ".data", ".pt2")):
        with path.open("rb") as file:
            if path.suffix == ".safetensors":  # its texts are in the header, after the length of it
                text = file.read(int.from_bytes(file.read(8), "little")).decode()
            else:
                text = file.read().decode()
        if redact(text) != text:
            raise UserError(
                f"nothing is exported, because {path.relative_to(folder)} would hold a password or token of the run's "
                "configuration: remove it from what is named there, such as the run or its data"
            )


@torch.inference_mode()
def parity_batch(request: ExportRequest, format: ExportFormat) -> dict[str, Tensor]:
    """Return normalized noise as images or clips, and the encoder's outputs for it."""
    config, channels = request.encoder.config, request.encoder.config.in_channels
    shape = (CLIPS, channels, config.frames) if config.modality.has_time else (IMAGES, channels)
    pixels = torch.randn(*shape, config.image_size, config.image_size, generator=torch.Generator().manual_seed(0))
    outputs = format.outputs(request.encoder, pixels)
    if format.predicted and request.predictor is not None:
        outputs |= format.predicted(request, pixels)
    return {"pixels": pixels, **{name: output.contiguous() for name, output in outputs.items()}}


def check_parity(folder: Path, to: str = "timm", dtype: str = "fp32", here: bool = False) -> float:
    """Return the largest difference between the outputs of the encoder loaded from a folder and those stored there.

    Args:
        folder: the export.
        to: its format.
        dtype: type of its weights.
        here: load it in this process, not in one of its own.

    Raises:
        UserError: the weights do not fit the network one to one, or an output differs by more than the tolerance of the dtype.
    """
    format, stored = FORMATS[to], load_file(folder / PARITY)
    deviations = compare(read_back(folder, format, here), stored)
    for difference, largest in deviations:
        limit, cure = (
            max(TOLERANCE, RELATIVE_TOLERANCE * largest),
            "check the run's encoder/ folder, or continue the run to write it again",
        )
        if dtype != "fp32":
            limit, cure = FP16_TOLERANCE * largest, "its features need --dtype fp32"
        if not (isfinite(difference) and difference <= limit):
            raise UserError(
                f"nothing is exported, because {format.library} gives features that differ from the encoder's by {difference:.1e}, "
                f"more than {limit:.0e}: {cure}"
            )
    return max(difference for difference, _ in deviations)
