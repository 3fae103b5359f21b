"""Write a run's encoder in a format that others load, after checking that it loads as the same encoder."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.level import Level
from jepa_pipeline.data.unfinished import new_folder
from jepa_pipeline.models.interface import BaseEncoder
from jepa_pipeline.models.timm_format import check_exportable, load_timm, write_timm
from jepa_pipeline.models.weights import hash_weights, load_encoder, read_card, save_encoder, save_tensors
from jepa_pipeline.probes.model_card import PARITY, TOLERANCE, Origin, model_card
from jepa_pipeline.redaction import redact, remember_secrets
from jepa_pipeline.results.levels import choose_level, level_name
from jepa_pipeline.results.probe_report import load_reports

LOADERS = {"timm": "timm", "jepa": "load_encoder"}
"""The formats, and what loads each."""
IMAGES, CLIPS = 4, 2
"""Size of the parity batch."""


def export(run: str | Path, to: str = "timm", out: str | Path | None = None, level: Level | None = None) -> Path:
    """Write the encoder with its preprocessing, its origin and a parity batch; return the folder.

    Args:
        run: a run folder, or the folder of an encoder.
        to: the format: timm, for images; or jepa, for any encoder, a folder that load_encoder reads.
        out: a new folder; default: RUN/export/FORMAT, or RUN/export/FORMAT-LEVEL for one level of a stack.
        level: the level of a stack that is read, which is written without the levels above it; default: as the encoder's card
            says. A single encoder is its own level 1.

    Raises:
        UserError: the format or the level does not exist, there is no encoder or one that timm cannot load, `out` is not
            empty, what is loaded from it gives other features, or a file would hold a secret.
    """
    if to not in LOADERS:
        raise UserError(f"cannot export to '{to}': choose {' or '.join(LOADERS)}")
    run, card = Path(run), read_card(run)
    level = choose_level(card.encoder, level, run)
    trained = load_encoder(run)
    encoder = trained if level is None else trained.truncate(level)
    if to == "timm":
        check_exportable(encoder, run)
    card = card.model_copy(update={"encoder": encoder.config})
    path = run / "config.yaml"
    recipe = path.read_text() if path.is_file() else None
    remember_secrets(recipe)
    origin = Origin(
        card,
        run_hash=hash_weights(trained),
        level=level,
        reports=load_reports(run / "probes"),
        recipe=recipe,
    )
    out = Path(out or run / "export" / (f"{to}-{level_name(level)}" if isinstance(level, int) else to))
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(out) as partial:
        write = write_timm if to == "timm" else save_encoder
        write(partial, encoder, card)
        (partial / PARITY).parent.mkdir()
        save_tensors(partial / PARITY, parity_batch(encoder, to))
        (partial / "README.md").write_text(model_card(encoder, to, origin))
        difference = check_parity(partial, to)
        refuse_secrets(partial)
    print(f"exported to {out}: the features that {LOADERS[to]} gives differ from the encoder's by {difference:.1e} at most")
    return out


def refuse_secrets(folder: Path) -> None:
    """Refuse a folder to be published in which a secret is left, such as a token of the run's configuration.

    Raises:
        UserError: a file holds one.
    """
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
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
def parity_batch(encoder: BaseEncoder, to: str) -> dict[str, Tensor]:
    """Return normalized noise as images or clips, and the encoder's outputs for it."""
    config = encoder.config
    channels = config.in_channels
    shape = (CLIPS, channels, config.frames) if config.modality.has_time else (IMAGES, channels)
    pixels = torch.randn(*shape, config.image_size, config.image_size, generator=torch.Generator().manual_seed(0))
    outputs = jepa_outputs(encoder, pixels)
    if to == "timm":  # under the names of timm's methods; its users read both
        outputs = {"forward_features": encoder.forward_features(pixels), "forward": outputs["pooled"]}
    return {"pixels": pixels, **{name: output.contiguous() for name, output in outputs.items()}}


def jepa_outputs(encoder: BaseEncoder, pixels: Tensor) -> dict[str, Tensor]:
    """Return the tokens, or the positions of the last feature map, "B N D", and the pooled features "B D"."""
    return {"tokens": encoder.intermediates(pixels, 1)[-1], "pooled": encoder.pooled(pixels)}


def timm_outputs(network: nn.Module, pixels: Tensor) -> dict[str, Tensor]:
    """Return what timm's methods of these names return: tokens "B N D" or feature maps, and pooled features "B D"."""
    return {"forward_features": network.forward_features(pixels), "forward": network(pixels)}  # pyright: ignore[reportCallIssue]


@torch.inference_mode()
def check_parity(folder: Path, to: str = "timm") -> float:
    """Return the largest difference between the outputs of the encoder loaded from a folder and those stored there.

    Raises:
        UserError: the weights do not fit the network one to one, or the difference exceeds TOLERANCE.
    """
    try:
        stored = load_file(folder / PARITY)
        pixels = stored["pixels"]
        outputs = timm_outputs(load_timm(folder), pixels) if to == "timm" else jepa_outputs(load_encoder(folder), pixels)
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"nothing is exported, because {LOADERS[to]} cannot load the encoder: {error}") from error
    difference = max(float((outputs[name] - stored[name]).abs().max()) for name in outputs)
    if not difference <= TOLERANCE:  # also if it is NaN
        raise UserError(
            f"nothing is exported, because {LOADERS[to]} gives features that differ from the encoder's by {difference:.1e}, more "
            f"than {TOLERANCE:.0e}: check the run's encoder/ folder, or continue the run to write it again"
        )
    return difference
