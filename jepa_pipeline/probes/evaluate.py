"""A question put to a frozen encoder, and its answer: the numbers of all protocols on one data set, with their baselines."""

import hashlib
import time
from pathlib import Path
from typing import NamedTuple

import torch

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.level import Level
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.data.dataset import ImageList
from jepa_pipeline.data.eval_clips import ClipList
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.models.build import AnyEncoder, build_encoder
from jepa_pipeline.models.stack import Stack
from jepa_pipeline.models.weights import EncoderCard, hash_weights, load_encoder, read_card
from jepa_pipeline.probes.attentive import attention_heads, attentive_probe
from jepa_pipeline.probes.eval_loader import Feed
from jepa_pipeline.probes.feature_extractors import Frames, Reader, names_of
from jepa_pipeline.probes.features import Features, Lens, extract
from jepa_pipeline.probes.labels import read_labels
from jepa_pipeline.probes.levels import TWIN, check_level, level_name, level_of, twin_name, wanted_levels
from jepa_pipeline.probes.pooled_probes import judge, ranks, row
from jepa_pipeline.probes.report import EncoderName, ProbeReport, Settings, load_report, save_report
from jepa_pipeline.probes.runs import run_of
from jepa_pipeline.probes.sets import check_media, check_sizes, damage_has_a_cure, open_sets, reads_clips, set_name
from jepa_pipeline.probes.tokens import FreshTokens, kept_if_small
from jepa_pipeline.version import __version__

BLINDED: dict[EncoderName, Frames] = {"frames_shuffled": "shuffled", "frames_apart": "apart"}


class Subject(NamedTuple):
    """A frozen encoder that is asked. folder: of its run, of itself or of a snapshot; level: of a stack the only one asked."""

    folder: Path
    card: EncoderCard
    encoder: AnyEncoder
    weights_hash: str
    level: Level | None = None


class Question(NamedTuple):
    """What a subject is asked. report: as far as it is known before; path: where the answer is kept."""

    subject: Subject
    train_set: Shards
    test_set: Shards
    report: ProbeReport
    path: Path


def read_subject(folder: Path, level: Level | None = None) -> Subject:
    """The encoder of a run, of a snapshot or of a folder of its own.

    Raises:
        UserError: there is none, it has no such level, or it is damaged.
    """
    card = read_card(folder)
    level = check_level(card.encoder, level, folder)
    encoder = load_encoder(folder)
    return Subject(folder, card, encoder, hash_weights(encoder), level)


def ask(subject: Subject, data: str, test: str | None, config: ProbeConfig, out: Path | None = None) -> Question:
    """The question of what the encoder knows about a data set.

    Args:
        subject: the encoder.
        data: a folder or URL with labeled shards in train/ and test/, or the training shards where `test` is given.
        test: the test shards.
        config: the probe's settings.
        out: folder of the report; RUN/probes unless given.

    Raises:
        UserError: there is no data, it has no labels, or two of these do not belong together.
    """
    card, (train_set, test_set) = subject.card, open_sets(data, test)
    check_media(card, train_set, test_set)
    report = ProbeReport(
        data=set_name(data),
        data_hash={"train": train_set.manifest.hash(), "test": test_set.manifest.hash()},
        config_hash=card.config_hash,
        weights_hash=subject.weights_hash,
        step=card.step,
        version=__version__,
        probe=config,
        level=subject.level,
        rows=[],
        selection={},
    )
    run = run_of(subject.folder)
    parts = [report.data]
    if run != subject.folder:
        parts.append(subject.folder.resolve().name)
    if subject.level is not None:
        parts.append(level_name(subject.level))
    return Question(
        subject, train_set, test_set, report, (out or run / "probes") / f"{'-'.join([*parts, report_key(report)])}.json"
    )


def answered(question: Question) -> ProbeReport | None:
    """The answer, if the same question was put to the same weights before and answered in full."""
    for path in sorted(question.path.parent.glob(f"*-{report_key(question.report)}.json")):
        report = load_report(path)
        if {*question.report.probe.protocols} <= {row.protocol for row in report.rows}:
            return report
    return None


def answer(question: Question) -> ProbeReport:
    """Measure, and write the report.

    Raises:
        UserError: the training set is too small, or a sample cannot be used.
    """
    (_, card, encoder, *_), train_set, test_set, report, path = question
    config = report.probe
    with damage_has_a_cure(train_set.manifest.kind):
        check_sizes(train_set, config)
        readers = readers_of(card, encoder, report.level, config.seed, clips=train_set.manifest.kind == "videos")
        if {"linear", "knn"} & {*config.protocols}:
            report = probe_pooled(report, readers, train_set, test_set, card)
            save_report(path, report)  # already, for the heads that follow take long and may fail
        if "attentive" in config.protocols:
            report = probe_attentive(report, readers, train_set, test_set, card)
            check_unchanged(encoder, report.weights_hash)
            save_report(path, report)
    return report


def check_unchanged(encoder: AnyEncoder, before: str) -> None:
    if hash_weights(encoder.cpu()) != before:
        raise RuntimeError("the probe changed the encoder's weights: its numbers would not be this encoder's")


def report_key(report: ProbeReport) -> str:
    """The same question put to the same weights has the same name, so that asking again replaces the answer."""
    asked = {"data_hash", "weights_hash", "probe", *(["level"] if report.level is not None else [])}
    question = report.model_dump_json(include=asked)
    return hashlib.sha256(question.encode()).hexdigest()[:12]


def readers_of(card: EncoderCard, encoder: AnyEncoder, level: Level | None, seed: int, clips: bool) -> dict[EncoderName, Reader]:
    """The encoder, its untrained twin and, of clips, itself without knowledge of the order of frames.

    Of a stack each of the first two reads all levels that are wanted in one pass, the others the last of these: all, if there are
    several.
    """
    twin = random_encoder(card.encoder, seed)
    if not isinstance(encoder, Stack) or not isinstance(twin, Stack):
        readers = {card.kept: Reader(encoder), TWIN: Reader(twin)}
        return readers | ({name: Reader(encoder, frames, seed) for name, frames in BLINDED.items()} if clips else {})
    levels = wanted_levels(encoder.config, level)
    stack, twin = encoder.reading(levels[-1]), twin.reading(levels[-1])
    readers = {
        card.kept: Reader(stack, levels={level_name(level): level for level in levels}),
        TWIN: Reader(twin, levels={twin_name(level): level for level in levels}),
    }
    blinded = {name: Reader(stack, frames, seed, {name: levels[-1]}) for name, frames in BLINDED.items()}
    return readers | (blinded if clips else {})


def random_encoder(config: EncoderConfig | BackboneConfig, seed: int) -> AnyEncoder:
    """An encoder of the same shape that has learned nothing: its batch norms, too, have the statistics they begin with, 0 and 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_encoder(config).requires_grad_(False).eval()


def feed(shards: Shards, card: EncoderCard, config: ProbeConfig, segments: int, views: int, first: int) -> Feed:
    """All samples of a data set as its encoder takes them, numbered from `first`; images have one segment and one view."""
    encoder, samples = card.encoder, shards.manifest.samples
    if not (isinstance(encoder, EncoderConfig) and encoder.clips):
        return Feed(ImageList(shards, encoder.image_size), samples, 1, config.batch_size, config.workers, first)
    if shards.manifest.kind == "images":
        segments, views = 1, 1
    clip = card.clip or ClipConfig.model_validate({})  # of images any frame is the same
    dataset = ClipList(shards, encoder.frames, clip, segments, views, encoder.image_size)
    return Feed(dataset, samples, views, max(1, config.batch_size // encoder.frames), config.workers, first)


def lens(card: EncoderCard, config: ProbeConfig) -> Lens:
    return Lens(card.mean, card.std, config.precision)


def extract_set(
    readers: dict[EncoderName, Reader], shards: Shards, card: EncoderCard, config: ProbeConfig, title: str, first: int = 0
) -> Features:
    samples = feed(shards, card, config, config.segments, 1, first)
    stills = reads_clips(card) and shards.manifest.kind == "images"
    loaded = samples.load(samples.passes())
    return extract({**readers}, loaded, samples.samples, lens(card, config), title, first, stills)


def probe_pooled(
    report: ProbeReport, readers: dict[EncoderName, Reader], train_set: Shards, test_set: Shards, card: EncoderCard
) -> ProbeReport:
    """The report with the numbers of pooled features and of the pixels, and their ranks."""
    config = report.probe
    names = [*names_of(readers), "pixels"]
    train = extract_set(readers, train_set, card, config, "training set")
    unseen = extract_set(readers, test_set, card, config, "test set", first=train_set.manifest.samples)
    check_unchanged(next(iter(readers.values())).encoder, report.weights_hash)
    encoder, videos = card.encoder, train_set.manifest.kind == "videos"
    frames = encoder.frames if videos and isinstance(encoder, EncoderConfig) else None
    rows, selection = judge(names, train, unseen, len(train_set.manifest.classes or ()), frames, config)
    return report.model_copy(update={"rows": rows, "rankme": ranks(names, train), "selection": selection})


def probe_attentive(
    report: ProbeReport, readers: dict[EncoderName, Reader], train_set: Shards, test_set: Shards, card: EncoderCard
) -> ProbeReport:
    """The report with the number of each encoder that has tokens, and the heads it was chosen from."""
    config, settings, started, through = report.probe, report.probe.attentive, time.perf_counter(), lens(card, report.probe)
    train = feed(train_set, card, config, settings.segments, 1, 0)
    test = feed(test_set, card, config, settings.segments, settings.views, train.samples)
    tokens = kept_if_small(FreshTokens({**readers}, train, through), settings.memory_gb)
    classes, names = len(train_set.manifest.classes or ()), names_of(readers)
    limits = {name: attention_heads(card.encoder, settings, level_of(name)) for name in names}
    results = attentive_probe(tokens, read_labels(train_set), FreshTokens({**readers}, test, through), classes, limits, config)
    given: Settings = {"form": settings.form, "epochs": settings.epochs}
    if train_set.manifest.kind == "videos":
        given |= {"segments": settings.segments, "views": settings.views}
    rows = [
        row(name, "attentive", given | results[name].chosen.model_dump(), results[name].correct, test.samples, config.seed, started)
        for name in names
    ]
    trials = {name: result.trials for name, result in results.items()}
    return report.model_copy(update={"rows": report.rows + rows, "attentive_selection": trials})
