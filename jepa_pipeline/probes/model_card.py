"""README.md of an exported encoder: its sizes, its origin, its probes and how to load it."""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jepa_pipeline.config.encoder_card import Source
from jepa_pipeline.config.level import Level
from jepa_pipeline.interop.format import ExportFormat, ExportRequest
from jepa_pipeline.models.weights import EncoderCard, hash_weights
from jepa_pipeline.redaction import redact
from jepa_pipeline.results.levels import level_of
from jepa_pipeline.results.probe_report import EncoderName, ProbeReport
from jepa_pipeline.version import __version__


class Origin(NamedTuple):
    """The origin of an exported encoder.

    Attributes:
        run_hash: hash of the run's weights, of which these may be some levels.
        level: the level of a stack that is read; None: all, or there is no stack.
        reports: probe reports of the run.
        recipe: config.yaml of the run.
    """

    run_hash: str
    level: Level | None
    reports: Sequence[ProbeReport]
    recipe: str | None


def model_card(request: ExportRequest, format: ExportFormat, difference: float, origin: Origin) -> str:
    """Return the text of the card, without secrets.

    Args:
        request: what is exported.
        format: in which format.
        difference: between its outputs and the encoder's.
        origin: where the encoder is from.
    """
    encoder, card = request.encoder, request.card
    tags = ["video-feature-extraction" if encoder.config.modality.has_time else "image-feature-extraction", format.library]
    parts = [
        front_matter(card, format.library, tags),
        f"# {card.name}",
        f"{encoder.describe()}. {describe_training(card, origin.recipe is not None)}",
        "## Load\n\n" + format.usage(request, difference),
        "## Origin\n\n" + origin_table(card, hash_weights(encoder)),
        "## Probes\n\n" + probe_table(origin),
    ]
    if origin.recipe is not None:
        parts.append(f"## Recipe\n\n```yaml\n{origin.recipe.strip()}\n```")
    return redact("\n\n".join(parts)) + "\n"


def front_matter(card: EncoderCard, library: str, tags: Sequence[str]) -> str:
    """Return what a hub reads of a card."""
    license = [f"license: {json.dumps(card.source.license)}"] if card.source and card.source.license != "unknown" else []
    return "\n".join(["---", f"library_name: {library}", *license, "tags:", *(f"- {tag}" for tag in tags), "---"])


def describe_training(card: EncoderCard, has_recipe: bool) -> str:
    """Return how the weights came to be, as far as the card tells; without a run around it another program may have written it."""
    if card.source and card.step == 0:
        notes = "".join(f" {note[0].upper()}{note[1:].rstrip('.')}." for note in card.source.notes)
        return f"jepa_pipeline did not train these weights: they are the {card.source.network} of {card.source.path}.{notes}"
    if card.step == 0:
        source = f"they are from {card.begun_from}" if card.begun_from else "its card does not say where they are from"
        return f"jepa_pipeline did not train these weights: {source}."
    training = f"without labels by {card.method} with jepa_pipeline {card.version}"
    if card.begun_from:
        return f"Pretrained {training}, starting from the weights of {card.begun_from}."
    return f"Pretrained {training}, from untrained weights." if has_recipe else f"According to its card, pretrained {training}."


def origin_table(card: EncoderCard, weights_hash: str) -> str:
    rows = {**source_rows(card.source), **training_rows(card)} if card.source else training_rows(card)
    rows |= {"SHA-256 of the encoder's weights": weights_hash, "exported by": f"jepa_pipeline {__version__}"}
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def training_rows(card: EncoderCard) -> dict[str, str]:
    """Return the training with this package; for an imported encoder none."""
    if card.source and card.step == 0:
        return {}
    return {
        "method": f"{card.method}, its {card.kept} network",
        "optimizer steps": f"{card.step:,}",
        "samples seen": f"{card.samples:,}",
        **({"starting from": card.begun_from} if card.begun_from else {}),
        "config hash": card.config_hash,
        "data hash": card.data_hash,
    }


def source_rows(source: Source) -> dict[str, str]:
    """Return where imported weights are from."""
    return {
        "imported from": source.path,
        **({"revision": source.revision} if source.revision else {}),
        "license of the weights": source.license,
        "layout": source.family,
        "network": f"{source.network}, {source.dtype} in its file",
        "SHA-256 of the source": source.sha256,
    }


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
