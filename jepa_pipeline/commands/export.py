"""Write a run's encoder in a format others load, and refuse unless what they load is the same encoder."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.level import Level
from jepa_pipeline.config.stack import StackConfig
from jepa_pipeline.data.writer import new_folder
from jepa_pipeline.models.backbone import Backbone
from jepa_pipeline.models.build import AnyEncoder
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.stack import Stack
from jepa_pipeline.models.timm_format import check_nameable, load_timm, timm_outputs, write_timm
from jepa_pipeline.models.weights import EncoderCard, hash_weights, load_encoder, read_card, save_encoder
from jepa_pipeline.probes.levels import check_level, level_name, up_to
from jepa_pipeline.probes.model_card import PARITY, TOLERANCE, Origin, model_card
from jepa_pipeline.probes.report import load_reports

FORMATS = ("timm", "jepa")
IMAGES, CLIPS = 4, 2
"""In the stored batch."""


def export(run: str | Path, to: str = "timm", out: str | Path | None = None, level: Level | None = None) -> Path:
    """Write the encoder with its preprocessing, its origin and a stored batch; the folder it is in.

    Args:
        run: a run folder, or the folder of an encoder.
        to: the format: timm, for images; or jepa, for any encoder, a folder that load_encoder reads.
        out: a new folder; RUN/export/FORMAT unless given, of one level of a stack RUN/export/FORMAT-LEVEL.
        level: of a stack the level that is read, which is written without those above it; as the folder says, or all, unless given.
            A flat encoder is its level 1.

    Raises:
        UserError: the format is unknown, there is no encoder, no such level or one that timm cannot name, the folder is taken, or
            what is loaded from it gives other features.
    """
    if to not in FORMATS:
        raise UserError(f"'{to}' is no format to export to: choose {' or '.join(FORMATS)}")
    folder, card = Path(run), read_card(run)
    only = check_level(card.encoder, level, folder)
    whole = load_encoder(run)
    encoder, card = cut(whole, card, only)
    if to == "timm":
        check_nameable(encoder, run)
    out = Path(out or folder / "export" / "-".join([to, *([level_name(only)] if isinstance(only, int) else [])]))
    recipe = folder / "config.yaml"
    origin = Origin(
        card, hash_weights(whole), only, load_reports(folder / "probes"), recipe.read_text() if recipe.is_file() else None
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(out) as partial:
        if to == "timm":
            assert not isinstance(encoder, Stack)
            write_timm(partial, encoder, card)
        else:
            save_encoder(partial, encoder, card)
        save_file(stored_batch(encoder, to), partial / PARITY)
        (partial / "README.md").write_text(model_card(encoder, to, origin))
        difference = check_parity(partial, to)
    print(f"exported to {out}: {loader(to)}'s features differ from the encoder's by {difference:.1e} at most")
    return out


def cut(encoder: AnyEncoder, card: EncoderCard, level: Level | None) -> tuple[AnyEncoder, EncoderCard]:
    """A stack that reads a level, without those above it, of the same weights; a single level is a plain encoder."""
    if not isinstance(encoder, Stack) or level is None:
        return encoder, card
    config = up_to(card.encoder, level)
    networks = [one for one in encoder.encoders if isinstance(one, Encoder)][: None if level == "all" else level]
    card = card.model_copy(update={"encoder": config})
    return (Stack(config, networks) if isinstance(config, StackConfig) else networks[0]), card


def loader(to: str) -> str:
    """Who reads the format."""
    return "timm" if to == "timm" else "load_encoder"


@torch.inference_mode()
def stored_batch(encoder: AnyEncoder, to: str = "timm", seed: int = 0) -> dict[str, Tensor]:
    """Normalized noise, images or clips, and what the encoder gives for it where those who load it look."""
    config = encoder.config
    shape = (IMAGES, 3, config.image_size, config.image_size)
    if not isinstance(encoder, Backbone) and encoder.config.clips:
        shape = (CLIPS, 3, encoder.config.frames, config.image_size, config.image_size)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if to == "jepa":
        outputs = jepa_outputs(encoder, pixels)
    elif isinstance(encoder, Backbone):
        outputs = timm_outputs(encoder.network, pixels)
    else:
        tokens = encoder(pixels)
        outputs = {"forward_features": tokens, "forward": tokens.mean(1)}
    return {"pixels": pixels, **{name: output.contiguous() for name, output in outputs.items()}}


def jepa_outputs(encoder: AnyEncoder, pixels: Tensor) -> dict[str, Tensor]:
    """Tokens, or places of the last feature map, "B N D", and the pooled features "B D"."""
    return {"tokens": encoder.intermediates(pixels, 1)[-1], "pooled": encoder.pooled(pixels)}


@torch.inference_mode()
def check_parity(folder: Path, to: str = "timm") -> float:
    """Largest difference between what is computed with what is loaded from an exported folder and what is stored there.

    Raises:
        UserError: the weights do not fit the network one to one, or the difference is not within the tolerance.
    """
    try:
        stored = load_file(folder / PARITY)
        pixels = stored["pixels"]
        outputs = timm_outputs(load_timm(folder), pixels) if to == "timm" else jepa_outputs(load_encoder(folder), pixels)
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"{loader(to)} cannot load the exported encoder, so nothing is exported: {error}") from error
    difference = max(float((outputs[name] - stored[name]).abs().max()) for name in outputs)
    if not difference <= TOLERANCE:
        raise UserError(
            f"{loader(to)}'s features differ from the encoder's by {difference:.1e}, more than {TOLERANCE:.0e}, so nothing is "
            "exported: check the run's encoder/ folder, or write it anew by continuing the run"
        )
    return difference
