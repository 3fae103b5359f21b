"""Probe a frozen encoder on one data set: the accuracies of all protocols, with those of the baselines."""

import hashlib
import time
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.encoder_card import AnyEncoderConfig, EncoderCard, read_card
from jepa_pipeline.config.level import Level
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.console import note
from jepa_pipeline.data.dataset import EvalImages
from jepa_pipeline.data.eval_clips import EvalClips
from jepa_pipeline.data.local_files import describe_unhashed
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.models.interface import BaseEncoder
from jepa_pipeline.models.weights import hash_weights, load_encoder
from jepa_pipeline.probes.attentive import attentive_probe, max_heads
from jepa_pipeline.probes.eval_loader import EvalLoader
from jepa_pipeline.probes.feature_extractors import FeatureExtractor, FrameMode, feature_names
from jepa_pipeline.probes.features import Features, Preprocessing, extract
from jepa_pipeline.probes.labeled_data import (
    check_media,
    check_set_size,
    compare_labels,
    explain_damage,
    open_labeled_sets,
    open_own_sets,
    read_labels,
    set_name,
)
from jepa_pipeline.probes.layer_scale import layer_scale
from jepa_pipeline.probes.pooled_probes import make_row, measure_ranks, probe_features
from jepa_pipeline.probes.tokens import ComputedTokens, cache_tokens
from jepa_pipeline.results.levels import UNTRAINED, choose_level, level_name, level_of, levels_to_probe, untrained_name
from jepa_pipeline.results.probe_report import EncoderName, ProbeReport, Settings, load_report, report_paths, save_report
from jepa_pipeline.results.run_folders import run_of
from jepa_pipeline.version import __version__

FRAME_BASELINES: dict[EncoderName, FrameMode] = {"frames_shuffled": "shuffled", "frames_apart": "apart"}


OwnSets = tuple[Dataset[Any], Dataset[Any]]
"""A user's own labeled training and test set."""


class FrozenEncoder(NamedTuple):
    """An encoder to probe.

    Attributes:
        folder: of its run, of a snapshot or of the encoder itself.
        card: of the encoder.
        encoder: in eval mode, without gradients.
        weights_hash: SHA-256 of the weights.
        level: the level of a stack to probe; None: every level, or a single encoder.
    """

    folder: Path
    card: EncoderCard
    encoder: BaseEncoder
    weights_hash: str
    level: Level | None = None


class ProbeJob(NamedTuple):
    """A planned probe: an encoder, the data, the report without results, and the path of the report."""

    frozen: FrozenEncoder
    train_set: Shards
    test_set: Shards
    report: ProbeReport
    path: Path


def load_frozen(folder: Path, level: Level | None = None) -> FrozenEncoder:
    """Load the encoder of a run, of a snapshot or of an encoder folder.

    Raises:
        UserError: there is none, it has no such level, or it is damaged.
    """
    card = read_card(folder)
    level = choose_level(card.encoder, level, folder)
    encoder = load_encoder(folder)
    return FrozenEncoder(folder, card, encoder, hash_weights(encoder), level)


def plan_probe(
    frozen: FrozenEncoder, data: str | OwnSets, test: str | None, config: ProbeConfig, out: Path | None = None
) -> ProbeJob:
    """Open the data of a probe and check that encoder and data belong together.

    Args:
        frozen: the encoder.
        data: a folder or URL with labeled shards in train/ and test/, or the training shards if `test` is given; or a user's own
            training and test set.
        test: the test shards.
        config: of the probe.
        out: folder of the report; default: RUN/probes.

    Raises:
        UserError: there is no data, it has no labels, or it does not belong to the encoder.
    """
    card = frozen.card
    train_set, test_set = open_labeled_sets(data, test) if isinstance(data, str) else open_own_sets(*data)
    check_media(card, train_set, test_set)
    report = ProbeReport(
        data=set_name(data if isinstance(data, str) else train_set.location),
        data_hash={"train": train_set.manifest.hash(), "test": test_set.manifest.hash()},
        config_hash=card.config_hash,
        weights_hash=frozen.weights_hash,
        step=card.step,
        version=__version__,
        probe=config,
        level=frozen.level,
        rows=[],
        selection={},
    )
    run = run_of(frozen.folder)
    parts = [report.data]
    if run != frozen.folder:
        parts.append(frozen.folder.resolve().name)
    if frozen.level is not None:
        parts.append(level_name(frozen.level))
    path = (out or run / "probes") / f"{'-'.join([*parts, report_key(report)])}.json"
    return ProbeJob(frozen, train_set, test_set, report, path)


def load_finished(job: ProbeJob) -> ProbeReport | None:
    """Return the report of an earlier probe with the same data, weights and settings if it has all protocols, else None."""
    for path in report_paths(job.path.parent, f"*-{report_key(job.report)}.json"):
        report = load_report(path)
        if {*job.report.probe.protocols} <= {row.protocol for row in report.rows}:
            return report
    return None


def run_probe(job: ProbeJob) -> ProbeReport:
    """Measure all accuracies, and write the report.

    Raises:
        UserError: the training set is too small, or a sample cannot be read.
    """
    report, encoder = job.report, job.frozen.encoder
    config, kind = report.probe, job.train_set.manifest.kind
    with explain_damage(kind):
        classes, counts = compare_labels(job.train_set, job.test_set)
        report = report.model_copy(update={"labels": counts})
        unhashed = (describe_unhashed(shards.location, shards.manifest) for shards in (job.train_set, job.test_set))
        for sentence in (*counts.sentences(), *chain.from_iterable(unhashed)):
            note(sentence)
        check_set_size(job.train_set, config)
        extractors = build_extractors(job.frozen.card, encoder, report.level, config.seed, clips=kind == "videos")
        if {"linear", "knn"} & {*config.protocols}:
            report = probe_pooled(report, extractors, job, classes)
            save_report(job.path, report)  # now, because the attentive heads take long and may fail
        if "attentive" in config.protocols:
            report = probe_attentive(report, extractors, job, classes)
            check_unchanged(encoder, report.weights_hash)
            save_report(job.path, report)
    return report


def check_unchanged(encoder: BaseEncoder, weights_hash: str) -> None:
    if hash_weights(encoder.cpu()) != weights_hash:
        raise RuntimeError("the probe changed the encoder's weights, so its results would not be this encoder's")


def report_key(report: ProbeReport) -> str:
    """Return a key that is equal for the same data, weights and settings, so that a repeated probe replaces its report."""
    keys = {"data_hash", "weights_hash", "probe", *(["level"] if report.level is not None else [])}
    return hashlib.sha256(report.model_dump_json(include=keys).encode()).hexdigest()[:12]


def build_extractors(
    card: EncoderCard, encoder: BaseEncoder, level: Level | None, seed: int, clips: bool
) -> dict[EncoderName, FeatureExtractor]:
    """Return extractors for the encoder, its untrained baseline and, for clips, the encoder without the order of frames.

    For a stack, the encoder and its baseline extract all levels to probe in one pass; the extractors without the order of
    frames extract only the last of these levels, which is all levels concatenated if there are several.
    """
    untrained = build_untrained(card.encoder, seed)
    if scale := layer_scale(untrained):
        note(
            f"{UNTRAINED} is not a fair baseline for {card.encoder.describe()}: its LayerScale factors start at {scale:g}, so its "
            "features barely depend on the image: compare with pixels",
        )
    trained_levels: dict[str, Level] | None = None
    untrained_levels: dict[str, Level] | None = None
    levels = levels_to_probe(card.encoder, level) if card.encoder.is_stack else ()
    if levels:
        encoder, untrained = encoder.read_level(levels[-1]), untrained.read_level(levels[-1])
        trained_levels = {level_name(level): level for level in levels}
        untrained_levels = {untrained_name(level): level for level in levels}
    extractors: dict[EncoderName, FeatureExtractor] = {
        card.kept: FeatureExtractor(encoder, levels=trained_levels),
        UNTRAINED: FeatureExtractor(untrained, levels=untrained_levels),
    }
    for name, frames in FRAME_BASELINES.items() if clips else ():
        extractors[name] = FeatureExtractor(encoder, frames, seed, {name: levels[-1]} if levels else None)
    return extractors


def build_untrained(config: AnyEncoderConfig, seed: int) -> BaseEncoder:
    """Return an untrained encoder of the same architecture; its batch norms use the initial statistics, 0 and 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_encoder(config).requires_grad_(False).eval()


def build_eval_loader(shards: Shards, card: EncoderCard, config: ProbeConfig, segments: int, views: int, first: int) -> EvalLoader:
    """Return a loader of all samples of a data set, as the encoder's input.

    Args:
        shards: of the data set.
        card: of the encoder.
        config: of the probe.
        segments: clips per video; an image has one.
        views: crops per clip; an image has one.
        first: number of the first sample for the extractors.
    """
    encoder, samples = card.encoder, shards.manifest.samples
    if not encoder.modality.has_time:
        images = EvalImages(shards.in_form(card.pixel_format), encoder.image_size)
        return EvalLoader(images, samples, 1, config.batch_size, config.workers, first)
    assert isinstance(encoder, EncoderConfig)  # networks of timm take images
    frames = encoder.frames
    if shards.manifest.kind == "images":
        segments, views, frames = 1, 1, encoder.still_frames
    clip = card.clip or ClipConfig.model_validate({})  # images only: all frames are the same
    dataset = EvalClips(shards, frames, clip, segments, views, encoder.image_size)
    return EvalLoader(dataset, samples, views, max(1, config.batch_size // frames), config.workers, first)


def extract_set(
    extractors: dict[EncoderName, FeatureExtractor],
    shards: Shards,
    card: EncoderCard,
    config: ProbeConfig,
    title: str,
    first: int = 0,
) -> Features:
    loader = build_eval_loader(shards, card, config, config.segments, 1, first)
    still_clips = card.encoder.modality.has_time and shards.manifest.kind == "images"
    preprocessing = Preprocessing(card.mean, card.std, config.precision)
    batches = loader.load(loader.batches())
    return extract({**extractors}, batches, loader.samples, preprocessing, title, first, still_clips)


def probe_pooled(report: ProbeReport, extractors: dict[EncoderName, FeatureExtractor], job: ProbeJob, classes: int) -> ProbeReport:
    """Return the report with the accuracies of pooled features and of the pixels, and their ranks."""
    config, card, manifest = report.probe, job.frozen.card, job.train_set.manifest
    names = [*feature_names(extractors), "pixels"]
    train = extract_set(extractors, job.train_set, card, config, "training set")
    test = extract_set(extractors, job.test_set, card, config, "test set", first=manifest.samples)
    check_unchanged(job.frozen.encoder, report.weights_hash)
    frames = card.encoder.frames if manifest.kind == "videos" else None
    rows, selection = probe_features(names, train, test, classes, frames, card.encoder.in_channels, config)
    return report.model_copy(update={"rows": rows, "rankme": measure_ranks(names, train), "selection": selection})


def probe_attentive(
    report: ProbeReport, extractors: dict[EncoderName, FeatureExtractor], job: ProbeJob, classes: int
) -> ProbeReport:
    """Return the report with the attentive accuracy of each encoder, and the heads that were tried."""
    config, settings, started, card = report.probe, report.probe.attentive, time.perf_counter(), job.frozen.card
    preprocessing, manifest = Preprocessing(card.mean, card.std, config.precision), job.train_set.manifest
    train = build_eval_loader(job.train_set, card, config, settings.segments, 1, 0)
    test = build_eval_loader(job.test_set, card, config, settings.segments, settings.views, train.samples)
    train_tokens = cache_tokens(ComputedTokens({**extractors}, train, preprocessing), settings.memory_gb)
    test_tokens = ComputedTokens({**extractors}, test, preprocessing)
    names = feature_names(extractors)
    heads = {name: max_heads(card.encoder, settings, level_of(name)) for name in names}
    labels = read_labels(job.train_set)
    results = attentive_probe(train_tokens, labels, test_tokens, classes, heads, config)
    given: Settings = {"form": settings.form, "epochs": settings.epochs}
    if manifest.kind == "videos":
        given |= {"segments": settings.segments, "views": settings.views}
    rows = [
        make_row(name, "attentive", given | result.chosen.model_dump(), result.correct, test.samples, config.seed, started)
        for name, result in ((name, results[name]) for name in names)
    ]
    trials = {name: result.trials for name, result in results.items()}
    return report.model_copy(update={"rows": report.rows + rows, "attentive_selection": trials})
