"""Write a run's encoder in a format others load, and refuse unless what they load is the same encoder."""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from jepa_pipeline import __version__
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.writer import new_folder
from jepa_pipeline.models.backbone import Backbone
from jepa_pipeline.models.build import AnyEncoder
from jepa_pipeline.models.timm_format import check_nameable, load_timm, timm_outputs, write_timm
from jepa_pipeline.models.weights import EncoderCard, hash_weights, load_encoder, read_card
from jepa_pipeline.probes.report import ProbeReport, load_reports

FORMATS = ("timm",)
PARITY = "parity.safetensors"
"""A batch of pixels with the encoder's own outputs for it, stored beside the weights."""
IMAGES = 4
TOLERANCE = 1e-5


def export(run: str | Path, to: str = "timm", out: str | Path | None = None) -> Path:
    """Write the encoder with its preprocessing, its origin and a stored batch; the folder it is in.

    Args:
        run: a run folder, or the folder of an encoder.
        to: the format: timm.
        out: a new folder; RUN/export/FORMAT unless given.

    Raises:
        UserError: the format is unknown, there is no encoder or one that timm cannot name, the folder is taken, or what timm
            loads gives other features.
    """
    if to not in FORMATS:
        raise UserError(f"'{to}' is no format to export to: choose {' or '.join(FORMATS)}")
    card, encoder = read_card(run), load_encoder(run)
    check_nameable(encoder, run)
    out = Path(out or Path(run) / "export" / to)
    recipe, reports = Path(run) / "config.yaml", load_reports(Path(run) / "probes")
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(out) as folder:
        write_timm(folder, encoder, card)
        save_file(stored_batch(encoder), folder / PARITY)
        (folder / "README.md").write_text(model_card(card, encoder, recipe.read_text() if recipe.is_file() else None, reports))
        difference = check_parity(folder)
    print(f"exported to {out}: timm's features differ from the encoder's by {difference:.1e} at most")
    return out


@torch.inference_mode()
def stored_batch(encoder: AnyEncoder, seed: int = 0) -> dict[str, Tensor]:
    """Normalised noise images and what the encoder gives for them where timm's users call forward_features and forward."""
    side = encoder.config.image_size
    pixels = torch.randn(IMAGES, 3, side, side, generator=torch.Generator().manual_seed(seed))
    if isinstance(encoder, Backbone):
        outputs = timm_outputs(encoder.network, pixels)
        return {"pixels": pixels, **{name: output.contiguous() for name, output in outputs.items()}}
    tokens = encoder(pixels)
    return {"pixels": pixels, "forward_features": tokens, "forward": tokens.mean(1)}


def check_parity(folder: Path) -> float:
    """Largest difference between what timm computes from an exported folder and what is stored there.

    Raises:
        UserError: the weights do not fit timm's network one to one, or the difference is not within the tolerance.
    """
    try:
        stored = load_file(folder / PARITY)
        outputs = timm_outputs(load_timm(folder), stored["pixels"])
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"timm cannot load the exported encoder, so nothing is exported: {error}") from error
    difference = max(float((outputs[name] - stored[name]).abs().max()) for name in outputs)
    if not difference <= TOLERANCE:
        raise UserError(
            f"timm's features differ from the encoder's by {difference:.1e}, more than {TOLERANCE:.0e}, so nothing is exported: "
            "check the run's encoder/ folder, or write it anew by continuing the run"
        )
    return difference


def model_card(card: EncoderCard, encoder: AnyEncoder, recipe: str | None, reports: Iterable[ProbeReport]) -> str:
    """README.md: what the encoder is, where it comes from, what it reached and how to load it."""
    what, pooling = describe(encoder)
    weights_hash = hash_weights(encoder)
    parts = [
        "---\nlibrary_name: timm\ntags:\n- image-feature-extraction\n- timm\n---",
        f"# {card.name}",
        f"{what}. Pretrained without labels by {card.method} with jepa_pipeline {card.version}, from untrained weights.",
        "## Load\n\n```python\nimport timm\n\n"
        'model = timm.create_model("local-dir:THIS_FOLDER", pretrained=True).eval()\n'
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n"
        "features = model(transform(image)[None])\n```",
        f"`model(...)` is {pooling} of `model.forward_features(...)`. `{PARITY}` holds pixels and the outputs of "
        f"the pretrained encoder for them; this folder was written because timm gave the same to {TOLERANCE:.0e}.",
        "## Origin\n\n" + origin(card, weights_hash),
        "## Probes\n\n" + probe_table(reports, weights_hash),
    ]
    if recipe is not None:
        parts.append(f"## Recipe\n\n```yaml\n{recipe.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def describe(encoder: AnyEncoder) -> tuple[str, str]:
    """What the encoder is, and how it makes one vector of what timm calls its features."""
    if isinstance(encoder, Backbone):
        given = ", ".join(f"{name} {value}" for name, value in encoder.arguments.items())
        what = f"timm's {encoder.config.timm}{f' with {given}' if given else ''}: features of width {encoder.width}, "
        return f"{what}images of {encoder.config.image_size} pixels", "timm's own pooling"
    size, patch = encoder.config.size, encoder.config.patch_size
    what = f"A vision transformer: {size.depth} blocks, width {size.embed_dim}, {size.num_heads} heads, patches of {patch} pixels, "
    return f"{what}images of {encoder.config.image_size} pixels, no class token", "the mean over the patches"


def origin(card: EncoderCard, weights_hash: str) -> str:
    facts = {
        "method": f"{card.method}, its {card.kept} network",
        "optimiser steps": card.step,
        "samples seen": card.samples,
        "config hash": card.config_hash,
        "data hash": card.data_hash,
        "SHA-256 of the weights": weights_hash,
        "exported by": f"jepa_pipeline {__version__}",
    }
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in facts.items())


def probe_table(reports: Iterable[ProbeReport], weights_hash: str) -> str:
    """The probes of these very weights, with their baselines."""
    lines = [
        f"| {report.data} | {row.encoder} | {row.protocol} | {', '.join(f'{key} {value}' for key, value in row.settings.items())} "
        f"| {100 * row.top1:.2f} | {100 * row.ci95[0]:.2f} - {100 * row.ci95[1]:.2f} | {row.n_test} |"
        for report in reports
        if report.weights_hash == weights_hash
        for row in report.rows
    ]
    if not lines:
        return "Not probed yet: `jepa probe RUN --data DATA` before the export puts its numbers here."
    head = "| data | encoder | protocol | settings | top-1 % | 95 % interval | test images |\n|---|---|---|---|---|---|---|\n"
    return head + "\n".join(lines)
