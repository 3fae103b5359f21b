"""README.md of an exported encoder: its sizes, its origin, its probes and how to load it."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import NamedTuple

from jepa_pipeline.config.level import Level
from jepa_pipeline.models.interface import BaseEncoder
from jepa_pipeline.models.weights import EncoderCard, hash_weights
from jepa_pipeline.redaction import redact
from jepa_pipeline.results.levels import level_of
from jepa_pipeline.results.probe_report import EncoderName, ProbeReport
from jepa_pipeline.version import __version__

PARITY = "parity/outputs.safetensors"
"""A batch of pixels with the encoder's own outputs for it. Not beside the weights: timm before 1.0.29 fails where a folder has two
files of weights."""
LEAST_TIMM = "1.0.16"
"""The first version of timm that loads local folders."""
TOLERANCE = 1e-5
LIBRARIES = {"timm": "timm", "jepa": "jepa_pipeline"}
LOAD = {
    "timm": """import timm

model = timm.create_model("local-dir:THIS_FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
features = model(transform(image)[None])""",
    "jepa": """from jepa_pipeline.models.weights import load_encoder

encoder = load_encoder("THIS_FOLDER")
features = encoder.pooled(pixels)""",
}


class Origin(NamedTuple):
    """The origin of an exported encoder.

    Attributes:
        card: the exported encoder's.
        run_hash: hash of the run's weights, of which these may be some levels.
        level: the level of a stack that is read; None: all, or there is no stack.
        reports: probe reports of the run.
        recipe: config.yaml of the run.
    """

    card: EncoderCard
    run_hash: str
    level: Level | None
    reports: Sequence[ProbeReport]
    recipe: str | None


def model_card(encoder: BaseEncoder, to: str, origin: Origin) -> str:
    """Return the text of the card for a format, timm or jepa, without secrets."""
    card, modality = origin.card, "video" if encoder.config.modality.has_time else "image"
    tags = [f"{modality}-feature-extraction", *(["timm"] if to == "timm" else [])]
    parts = [
        f"---\nlibrary_name: {LIBRARIES[to]}\ntags:\n" + "\n".join(f"- {tag}" for tag in tags) + "\n---",
        f"# {card.name}",
        f"{encoder.describe()}. {describe_training(card, origin.recipe is not None)}",
        f"## Load\n\n```python\n{LOAD[to]}\n```",
        timm_usage(encoder) if to == "timm" else jepa_usage(encoder, card),
        "## Origin\n\n" + origin_table(card, hash_weights(encoder)),
        "## Probes\n\n" + probe_table(origin),
    ]
    if origin.recipe is not None:
        parts.append(f"## Recipe\n\n```yaml\n{origin.recipe.strip()}\n```")
    return redact("\n\n".join(parts)) + "\n"


def describe_training(card: EncoderCard, has_recipe: bool) -> str:
    """Return how the weights came to be, as far as the card tells; without a run around it another program may have written it."""
    if card.step == 0:
        source = f"they are from {card.begun_from}" if card.begun_from else "its card does not say where they are from"
        return f"jepa_pipeline did not train these weights: {source}."
    training = f"without labels by {card.method} with jepa_pipeline {card.version}"
    if card.begun_from:
        return f"Pretrained {training}, starting from the weights of {card.begun_from}."
    return f"Pretrained {training}, from untrained weights." if has_recipe else f"According to its card, pretrained {training}."


def timm_usage(encoder: BaseEncoder) -> str:
    return (
        f"It was written with timm {version('timm')} and loads with {LEAST_TIMM} or newer; before 1.0.29 that takes a torch whose "
        f"torch.load reads safetensors, such as 2.13. `model(...)` is {encoder.pooling} of `model.forward_features(...)`. "
        f"`{PARITY}` holds pixels and the outputs of the pretrained encoder for them. Before this folder was written, timm gave "
        f"the same outputs to {TOLERANCE:.0e}."
    )


def jepa_usage(encoder: BaseEncoder, card: EncoderCard) -> str:
    config = encoder.config
    shape = f"B {config.in_channels} {'T ' if config.modality.has_time else ''}H W"
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (card.mean, card.std))
    return (
        f'`pixels` are "{shape}" in 0..1 ({config.input_shape}), minus the mean ({mean}), over the deviation ({std}), per '
        f'channel. `encoder.pooled` gives vectors "B D" of width {encoder.width}, `encoder.intermediates(pixels, 1)[-1]` tokens '
        f'"B N D". `{PARITY}` holds pixels and these two outputs of the pretrained encoder, as `pooled` and `tokens`. Before '
        f"this folder was written, the encoder loaded from it gave the same outputs to {TOLERANCE:.0e}."
    )


def origin_table(card: EncoderCard, weights_hash: str) -> str:
    rows = {
        "method": f"{card.method}, its {card.kept} network",
        "optimizer steps": f"{card.step:,}",
        "samples seen": f"{card.samples:,}",
        **({"starting from": card.begun_from} if card.begun_from else {}),
        "config hash": card.config_hash,
        "data hash": card.data_hash,
        "SHA-256 of the weights": weights_hash,
        "exported by": f"jepa_pipeline {__version__}",
    }
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def probe_table(origin: Origin) -> str:
    """Return the probes of these weights with their baselines; for one level of a stack, those of that level alone."""
    lines = [
        f"| {report.data} | {row.encoder} | {row.protocol} | {describe_settings(row.settings)} "
        f"| {100 * row.top1:.2f} | {100 * row.ci95[0]:.2f} - {100 * row.ci95[1]:.2f} | {row.n_test} |"
        for report in origin.reports
        if report.weights_hash == origin.run_hash
        for row in report.rows
        if origin.level in (None, "all") or describes_level(row.encoder, origin.level, report)
    ]
    if not lines:
        return "No probes yet: run `jepa probe RUN --data DATA` before the export to include its numbers."
    head = "| data | encoder | protocol | settings | top-1 % | 95 % interval | test samples |\n|---|---|---|---|---|---|---|\n"
    return head + "\n".join(lines)


def describe_settings(settings: Mapping[str, str | int | float]) -> str:
    """Return the settings of a probe with at most four digits of each number."""
    return ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in settings.items())


def describes_level(name: EncoderName, level: Level, report: ProbeReport) -> bool:
    """Return whether a row is about a level: its features, trained, untrained or of separate frames, or the pixels."""
    if name.startswith("frames_"):
        return report.level == level
    return name == "pixels" or level_of(name) == level
