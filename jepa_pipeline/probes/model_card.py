"""README.md of an exported encoder: what it is, where it comes from, what it reached and how to load it."""

from collections.abc import Sequence
from typing import NamedTuple

from jepa_pipeline.config.level import Level
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.models.backbone import Backbone
from jepa_pipeline.models.build import AnyEncoder
from jepa_pipeline.models.stack import Stack
from jepa_pipeline.models.weights import EncoderCard, hash_weights
from jepa_pipeline.probes.levels import level_of
from jepa_pipeline.probes.report import EncoderName, ProbeReport
from jepa_pipeline.probes.untrained import describe, input_size
from jepa_pipeline.version import __version__

PARITY = "parity.safetensors"
"""A batch of pixels with the encoder's own outputs for it, stored beside the weights."""
TOLERANCE = 1e-5
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
    """Where an exported encoder comes from.

    card: its own; run_hash: of the weights it was cut from, or its own; level: of a stack the one that is read, None: there is no
    stack, or all; reports: of the run's probes; recipe: config.yaml.
    """

    card: EncoderCard
    run_hash: str
    level: Level | None
    reports: Sequence[ProbeReport]
    recipe: str | None


def model_card(encoder: AnyEncoder, to: str, origin: Origin) -> str:
    """The text. to: the format, timm or jepa."""
    card, media = origin.card, "video" if takes_clips(encoder) else "image"
    tags = [f"{media}-feature-extraction", *(["timm"] if to == "timm" else [])]
    library = "timm" if to == "timm" else "jepa_pipeline"
    parts = [
        f"---\nlibrary_name: {library}\ntags:\n" + "\n".join(f"- {tag}" for tag in tags) + "\n---",
        f"# {card.name}",
        f"{what(encoder)}. Pretrained without labels by {card.method} with jepa_pipeline {card.version}, from untrained weights.",
        f"## Load\n\n```python\n{LOAD[to]}\n```",
        timm_words(encoder) if to == "timm" else jepa_words(encoder, card),
        "## Origin\n\n" + facts(card, hash_weights(encoder)),
        "## Probes\n\n" + probe_table(origin),
    ]
    if origin.recipe is not None:
        parts.append(f"## Recipe\n\n```yaml\n{origin.recipe.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def timm_words(encoder: AnyEncoder) -> str:
    pooling = "timm's own pooling" if isinstance(encoder, Backbone) else "the mean over the patches"
    return (
        f"`model(...)` is {pooling} of `model.forward_features(...)`. `{PARITY}` holds pixels and the outputs of "
        f"the pretrained encoder for them; this folder was written because timm gave the same to {TOLERANCE:.0e}."
    )


def jepa_words(encoder: AnyEncoder, card: EncoderCard) -> str:
    shape = "B 3 T H W" if takes_clips(encoder) else "B 3 H W"
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (card.mean, card.std))
    return (
        f'`pixels` are "{shape}" in 0..1 ({input_size(encoder.config)}), less the mean ({mean}), over the deviation ({std}), by '
        f'channel. `encoder.pooled` gives vectors "B D" of width {encoder.width}, `encoder.intermediates(pixels, 1)[-1]` tokens '
        f'"B N D". `{PARITY}` holds pixels and these two outputs of the pretrained encoder, as `pooled` and `tokens`; this folder '
        f"was written because what is loaded from it gave the same to {TOLERANCE:.0e}."
    )


def takes_clips(encoder: AnyEncoder) -> bool:
    return isinstance(encoder.config, EncoderConfig) and encoder.config.clips


def what(encoder: AnyEncoder) -> str:
    """What the encoder is."""
    if isinstance(encoder, Backbone):
        given = ", ".join(f"{name} {value}" for name, value in encoder.arguments.items())
        named = f"timm's {encoder.config.timm}{f' with {given}' if given else ''}: features of width {encoder.width}, "
        return f"{named}images of {encoder.config.image_size} pixels"
    if isinstance(encoder, Stack):
        level = encoder.config.level
        read = "all levels are read, their features beside one another" if level == "all" else f"level {level} is read"
        return f"A stack of {len(encoder.encoders)} vision transformers, {describe(encoder.config)}, no class token: {read}"
    config, size, patch = encoder.config, encoder.config.size, encoder.config.patch_size
    named = f"A vision transformer: {size.depth} blocks, width {size.embed_dim}, {size.num_heads} heads, "
    if config.clips:
        clips = f"{config.frames} frames of {config.image_size} pixels"
        return f"{named}tubelets of {config.tubelet_size} frames of {patch} pixels, clips of {clips}, no class token"
    return f"{named}patches of {patch} pixels, images of {config.image_size} pixels, no class token"


def facts(card: EncoderCard, weights_hash: str) -> str:
    found = {
        "method": f"{card.method}, its {card.kept} network",
        "optimizer steps": card.step,
        "samples seen": card.samples,
        "config hash": card.config_hash,
        "data hash": card.data_hash,
        "SHA-256 of the weights": weights_hash,
        "exported by": f"jepa_pipeline {__version__}",
    }
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in found.items())


def probe_table(origin: Origin) -> str:
    """The probes of these very weights, of a level of a stack of that level alone, with their baselines."""
    lines = [
        f"| {report.data} | {row.encoder} | {row.protocol} | {', '.join(f'{key} {value}' for key, value in row.settings.items())} "
        f"| {100 * row.top1:.2f} | {100 * row.ci95[0]:.2f} - {100 * row.ci95[1]:.2f} | {row.n_test} |"
        for report in origin.reports
        if report.weights_hash == origin.run_hash
        for row in report.rows
        if origin.level in (None, "all") or is_of(row.encoder, origin.level, report)
    ]
    if not lines:
        return "Not probed yet: `jepa probe RUN --data DATA` before the export puts its numbers here."
    head = "| data | encoder | protocol | settings | top-1 % | 95 % interval | test samples |\n|---|---|---|---|---|---|---|\n"
    return head + "\n".join(lines)


def is_of(name: EncoderName, level: Level, report: ProbeReport) -> bool:
    """Whether a row says something of a level: its own features, its untrained twin's, the pixels, or its own without time."""
    if name.startswith("frames_"):
        return report.level == level
    return name == "pixels" or level_of(name) == level
