"""`jepa embed`: an encoder's features of every image or video, as a file."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch.utils.data import Dataset

from jepa_pipeline.checks.given_paths import check_samples
from jepa_pipeline.config.encoder_card import EncoderCard
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.level import Level
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.console import note, print_plain, show_progress
from jepa_pipeline.custom import class_path
from jepa_pipeline.data.custom import CustomSamples
from jepa_pipeline.data.local_files import require_files
from jepa_pipeline.data.manifest import MANIFEST
from jepa_pipeline.data.media_files import MediaFiles
from jepa_pipeline.data.remote import is_remote
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.interop import preprocessing
from jepa_pipeline.models.interface import BaseEncoder
from jepa_pipeline.probes.embed import EmbeddedFeatures, Embedding, FeatureKind, embed_batches
from jepa_pipeline.probes.eval_loader import EvalLoader
from jepa_pipeline.probes.evaluate import FrozenEncoder, build_eval_loader, load_frozen
from jepa_pipeline.probes.feature_extractors import FeatureExtractor
from jepa_pipeline.probes.feature_file import check_file, write_features
from jepa_pipeline.probes.feature_rows import FeatureRows, Row
from jepa_pipeline.probes.features import compute_device
from jepa_pipeline.probes.labeled_data import check_input
from jepa_pipeline.probes.unfinished_features import unfinished_features
from jepa_pipeline.redaction import redact
from jepa_pipeline.results.levels import choose_level, level_name
from jepa_pipeline.version import __version__

NAMED = 5
"""Damaged samples that are printed."""


def embed(
    run: str | Path,
    data: str | Path,
    out: str | Path,
    features: str = "last",
    level: Level | None = None,
    segments: int = 2,
    device: str | None = None,
    batch_size: int = 256,
    workers: int = 2,
) -> Path:
    """Write an encoder's features of every sample of a data set, in order, and return the path of the file.

    Args:
        run: a run folder, one of its snapshots, or an encoder folder.
        data: a folder of images or videos, or the folder or URL of shards.
        out: a .parquet or .npy file.
        features: "last" or "last4", as probes call them.
        level: of a stack; default: all levels, concatenated.
        segments: clips per video.
        device: of torch; default: a GPU if there is one.
        batch_size: images, or frames of all clips, per forward pass.
        workers: data workers.

    Raises:
        UserError: there is no encoder or no data, they do not belong together, or the file cannot be written.
    """
    out, features = Path(out), check_features(features)
    check_file(out)
    chosen = choose_device(device)
    frozen, shards = load_frozen(Path(run), level), open_samples(str(data))
    loader, level = build_loader(frozen, shards, segments, batch_size, workers), level_to_read(frozen)
    embedding = build_embedding(frozen, level, features, chosen)
    about = {"features": features, "level": level, "segments": segments if shards.manifest.kind == "videos" else 1}
    plan = {
        **about,
        "encoder": {**frozen.card.model_dump(mode="json"), "weights_hash": frozen.weights_hash},
        "data": f"{redact(shards.location)} {shards.fingerprint()}",
        "batch_size": batch_size,
        "device": chosen.type,
        "version": __version__,
    }
    with unfinished_features(out, plan) as unfinished:
        rows = unfinished.rows
        if not unfinished.complete:
            with show_progress("features", loader.samples, rows.done) as advance:
                for batch, values in embed_batches(embedding, shards, loader, -(-rows.done // loader.batch_size)):
                    rows.add(batch, values)
                    advance(len(batch))
            report_damage(rows, shards)
        if not (unfinished.complete or unfinished.staged):
            with unfinished.stage() as path:
                write_features(path, rows, describe(about, frozen, shards, rows))
        written = unfinished.publish()
    print_plain(None, f"{rows.done:,} rows of {rows.width} values, written to {', '.join(map(str, written))}")
    return out


def check_features(features: str) -> FeatureKind:
    for name in get_args(FeatureKind):
        if features == name:
            return name
    raise UserError(f"--features {features} is unknown: give {' or '.join(get_args(FeatureKind))}")


def choose_device(name: str | None) -> torch.device:
    """Return the device of this name.

    Raises:
        UserError: there is none.
    """
    if name is None:
        return compute_device()
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name} is unknown: give cpu, cuda or cuda:NUMBER") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name} is neither a CPU nor a CUDA GPU: give cpu, cuda or cuda:NUMBER")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: torch finds {torch.cuda.device_count()} CUDA devices: give another, or cpu")
    return device


def features(
    encoder: str | Path | BaseEncoder,
    data: str | Path | Dataset[Any],
    features: str = "last",
    level: Level | None = None,
    segments: int = 2,
    device: str | None = None,
    batch_size: int = 256,
    workers: int = 0,
) -> EmbeddedFeatures:
    """Return in memory what `embed` writes to a file: the features of every sample of a data set, in order.

    Args:
        encoder: a run folder, one of its snapshots, an encoder folder, or what `load_encoder` returned.
        data: a folder of images or videos, the folder or URL of shards, or a map-style data set of your own.
        features: "last" or "last4", as probes call them.
        level: of a stack; default: all levels, concatenated.
        segments: clips per video.
        device: of torch; default: a GPU if there is one.
        batch_size: images, or frames of all clips, per forward pass.
        workers: data workers.

    Raises:
        UserError: there is no encoder or no data, they do not belong together, or no sample can be used.
    """
    kind, chosen, frozen = check_features(features), choose_device(device), freeze(encoder, level)
    own = not isinstance(data, str | Path)
    shards = CustomSamples(data, class_path(type(data))) if own else open_samples(str(data))
    loader, level = build_loader(frozen, shards, segments, batch_size, workers), level_to_read(frozen)
    rows, found = list[Row](), list[np.ndarray]()
    for batch, vectors in embed_batches(build_embedding(frozen, level, kind, chosen), shards, loader, 0):
        found += [] if vectors is None else [vectors]
        rows += batch
    errors = {number: row.error for number, row in enumerate(rows) if row.error is not None}
    if len(errors) == len(rows):
        raise UserError(f"none of the {len(rows):,} samples of {redact(shards.location)} can be used: {errors[0]}")
    values = np.full((len(rows), found[0].shape[1]), np.nan, np.float32)
    values[[number not in errors for number in range(len(rows))]] = np.concatenate(found)
    labels = np.array([-1 if row.label is None else row.label for row in rows], np.int64)
    return EmbeddedFeatures([row.key for row in rows], labels, values, errors)


def freeze(encoder: str | Path | BaseEncoder, level: Level | None) -> FrozenEncoder:
    """Return the encoder of a folder, or one that was loaded from a folder before.

    Raises:
        UserError: there is none, or nothing tells how its pixels are normalized.
    """
    if not isinstance(encoder, BaseEncoder):
        return load_frozen(Path(encoder), level)
    if not isinstance(encoder.card, EncoderCard):
        raise UserError("this encoder was not loaded from a folder, so how its pixels are normalized is unknown: give the run")
    folder = Path(encoder.card.name)
    return FrozenEncoder(folder, encoder.card, encoder, "", choose_level(encoder.card.encoder, level, folder))


def open_samples(data: str) -> Shards:
    """Return the samples of a data set or of a folder of files.

    Raises:
        UserError: there are none.
    """
    folder = Path(data)
    if is_remote(data) or (folder / MANIFEST).is_file():
        shards = Shards(data)
        require_files(data, shards.manifest)
        return shards
    check_samples(data)
    if parts := sorted(path.parent for path in folder.glob(f"*/{MANIFEST}")):
        raise UserError(f"{data} holds {len(parts)} sets of shards, such as {parts[0]}: name one of them")
    samples = MediaFiles(folder)
    for sentence in samples.notes:
        note(sentence)
    return samples


def build_loader(frozen: FrozenEncoder, shards: Shards, segments: int, batch_size: int, workers: int) -> EvalLoader:
    """Return the loader of all samples, in order.

    Raises:
        UserError: the encoder does not take them.
    """
    check_input(frozen.card, shards)
    config = ProbeConfig.model_validate({"batch_size": batch_size, "workers": workers, "segments": segments})
    return build_eval_loader(shards, frozen.card, config, segments, 1, 0)


def level_to_read(frozen: FrozenEncoder) -> Level | None:
    """Return the level of a stack whose features are computed; None: it is not a stack."""
    return (frozen.level or "all") if frozen.card.encoder.is_stack else None


def build_embedding(frozen: FrozenEncoder, level: Level | None, features: FeatureKind, device: torch.device) -> Embedding:
    """Return what is computed, on a device: for a stack the features of a level, or of all levels concatenated."""
    card, encoder = frozen.card, frozen.encoder.to(device).eval()
    if level is None:
        return Embedding(card, FeatureExtractor(encoder), card.kept, features, device)
    name = level_name(level)
    return Embedding(card, FeatureExtractor(encoder.read_level(level), levels={name: level}), name, features, device)


def report_damage(rows: FeatureRows, shards: Shards) -> None:
    """Print how many samples are damaged, and the first of them.

    Raises:
        UserError: all are.
    """
    if not rows.damaged:
        return
    if rows.damaged == rows.done:
        first = next(row.error for batch, _, _ in rows.lines() for row in batch)
        raise UserError(f"none of the {rows.done:,} samples of {redact(shards.location)} can be used: {first}")
    errors = [row.error for batch, _, _ in rows.lines() for row in batch if row.error is not None]
    print_plain(None, f"{rows.damaged:,} of {rows.done:,} samples are damaged: their rows have an error and no features")
    for error in errors[:NAMED]:
        print_plain(None, f"  {error}")


def describe(about: dict[str, Any], frozen: FrozenEncoder, shards: Shards, rows: FeatureRows) -> dict[str, Any]:
    """Return the metadata of the file: what the features are, of which encoder, with which preprocessing, and of which data."""
    card, classes = frozen.card, shards.manifest.classes
    still = {}
    if isinstance(card.encoder, EncoderConfig) and card.encoder.modality.has_time and shards.manifest.kind == "images":
        still = {"frames": card.encoder.still_frames, "clip": None}
    return {
        **about,
        "width": rows.width,
        "encoder": card.model_dump(mode="json"),
        "weights_hash": frozen.weights_hash,
        "preprocessing": preprocessing.describe(card) | still,
        "data": {
            "location": redact(shards.location),
            "hash": shards.fingerprint(),
            "samples": rows.done,
            "damaged": rows.damaged,
            "classes": classes,
        },
        "version": __version__,
    }
