"""Judge a run's encoder by what simple classifiers can read from its features, beside an untrained encoder and raw pixels."""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from jepa_pipeline import __version__
from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.probe import ProbeConfig, Protocol
from jepa_pipeline.data.clip_list import ClipList
from jepa_pipeline.data.collate import ImageList
from jepa_pipeline.data.manifest import MANIFEST
from jepa_pipeline.data.remote import is_remote, join, without_secrets
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.models.build import AnyEncoder, build_encoder
from jepa_pipeline.models.weights import EncoderCard, hash_weights, load_encoder, read_card
from jepa_pipeline.probes.attentive import AttentiveTrial, attention_heads, attentive_probe
from jepa_pipeline.probes.features import PIXELS, PIXELS_FRAMES, Features, Kinds, Lens, extract
from jepa_pipeline.probes.feed import Feed
from jepa_pipeline.probes.health import rankme
from jepa_pipeline.probes.interval import wilson_interval
from jepa_pipeline.probes.knn import knn_probe
from jepa_pipeline.probes.linear import Trial, linear_probe
from jepa_pipeline.probes.readers import Reader
from jepa_pipeline.probes.report import EncoderName, ProbeReport, Row, Settings, save_report
from jepa_pipeline.probes.table import show
from jepa_pipeline.probes.tokens import FreshTokens, kept_if_small

def probe(
    run: str | Path, data: str | Path, test: str | Path | None = None, config: ProbeConfig | None = None, out: Path | None = None
) -> list[Row]:
    """Linear, k-NN and attentive accuracies of a run's encoder and of its baselines.

    Args:
        run: a run folder, or the folder of an encoder.
        data: a folder or URL with labelled shards in train/ and test/, or the training shards where `test` is given.
        test: the test shards.
        config: the probe's settings; the defaults unless given.
        out: folder of the JSON; RUN/probes unless given.

    Raises:
        UserError: there is no encoder, no data, no labels, or two of these do not belong together.
    """
    config = config or ProbeConfig.model_validate({})
    card, encoder = read_card(run), load_encoder(run)
    before = hash_weights(encoder)
    train_set, test_set = open_sets(str(data), None if test is None else str(test))
    check_media(card, train_set, test_set)
    name = without_secrets(str(data)).rstrip("/").rpartition("/")[2] if is_remote(str(data)) else Path(data).resolve().name
    report = ProbeReport(
        data=name,
        data_hash={"train": train_set.manifest.hash(), "test": test_set.manifest.hash()},
        config_hash=card.config_hash,
        weights_hash=before,
        step=card.step,
        version=__version__,
        probe=config,
        rows=[],
        selection={},
    )
    path = (out or Path(run) / "probes") / f"{name}-{report_key(report)}.json"
    with damage_has_a_cure(train_set.manifest.kind):
        check_sizes(train_set, config)
        readers = readers_of(card, encoder, config.seed, clips=train_set.manifest.kind == "videos")
        labels = None
        if {"linear", "knn"} & {*config.protocols}:
            labels, pooled = probe_pooled(readers, train_set, test_set, card, config)
            report = finish(report, pooled, encoder, path)
        if "attentive" in config.protocols:
            labels = read_labels(train_set) if labels is None else labels
            report = finish(report, probe_attentive(readers, train_set, test_set, labels, card, config), encoder, path)
    show(report, train_set.manifest.kind, path)
    return report.rows


class Found(NamedTuple):
    """What one part of a probe adds to the report."""

    rows: list[Row]
    rankme: dict[str, float]
    selection: dict[str, list[Trial]]
    attentive_selection: dict[str, list[AttentiveTrial]]


def finish(report: ProbeReport, found: Found, encoder: AnyEncoder, path: Path) -> ProbeReport:
    """The report with what was found, saved: what comes later may fail, and hours of work are not lost with it."""
    check_unchanged(encoder, report.weights_hash)
    report = report.model_copy(
        update={field: value or getattr(report, field) for field, value in found._asdict().items()}
    )
    save_report(path, report)
    return report


def check_unchanged(encoder: AnyEncoder, before: str) -> None:
    if hash_weights(encoder.cpu()) != before:
        raise RuntimeError("the probe changed the encoder's weights: its numbers would not be this encoder's")


def report_key(report: ProbeReport) -> str:
    """The same question put to the same weights has the same name, so that asking again replaces the answer."""
    question = report.model_dump_json(include={"data_hash", "weights_hash", "probe"})
    return hashlib.sha256(question.encode()).hexdigest()[:12]


def open_sets(data: str, test: str | None) -> tuple[Shards, Shards]:
    """The labelled training and test shards, each in a folder or at a URL."""
    if test is None:
        both = Path(data)
        if not is_remote(data) and not all((both / part / MANIFEST).is_file() for part in ("train", "test")):
            raise UserError(
                f"{data} does not hold train/ and test/ shards: build them with `jepa shards build IMAGES {data} --split 0.1`, "
                "or name the test shards with --test"
            )
        data, test = (join(data, part) if is_remote(data) else str(both / part) for part in ("train", "test"))
    train_set, test_set = Shards(data), Shards(test)
    for folder, shards in ((data, train_set), (test, test_set)):
        if not shards.manifest.classes:
            raise UserError(
                f"{folder} has no classes: a probe needs labels, so build its shards from a folder of folders, one a class"
            )
    ours, theirs = train_set.manifest.classes, test_set.manifest.classes
    if ours != theirs:
        raise UserError(f"{data} has the classes {list_some(ours)} but {test} has {list_some(theirs)}: build both from one folder")
    if {shard.sha256 for shard in train_set.manifest.shards} & {shard.sha256 for shard in test_set.manifest.shards}:
        raise UserError(f"{data} and {test} share shards: a test set must not hold training samples")
    return train_set, test_set


def list_some(classes: tuple[str, ...] | None) -> str:
    names = classes or ()
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def check_media(card: EncoderCard, train_set: Shards, test_set: Shards) -> None:
    """Refuse videos for an encoder of images, and sets of which one holds videos and the other images."""
    ours, theirs = train_set.manifest.kind, test_set.manifest.kind
    train, test = without_secrets(train_set.location), without_secrets(test_set.location)
    if ours != theirs:
        raise UserError(f"{train} holds {ours} but {test} holds {theirs}: name two sets of the same kind")
    if ours == "videos" and not reads_clips(card):
        raise UserError(
            f"{card.name} takes images, but {train} holds videos: probe it on images, or probe an encoder of clips, such as vjepa's"
        )
    if ours == "videos" and card.clip is None:
        raise UserError(
            f"the card of {card.name} does not say which frames of a video are a clip: write its clip, as ClipConfig has it"
        )


def reads_clips(card: EncoderCard) -> bool:
    return isinstance(card.encoder, EncoderConfig) and card.encoder.clips


def readers_of(card: EncoderCard, encoder: AnyEncoder, seed: int, clips: bool) -> dict[EncoderName, Reader]:
    """The encoder, its untrained twin and, of clips, itself without knowledge of the order of frames."""
    readers: dict[EncoderName, Reader] = {card.kept: Reader(encoder), "random_init": Reader(random_encoder(card.encoder, seed))}
    if clips:
        readers["frames_shuffled"] = Reader(encoder, "shuffled", seed)
        readers["frames_apart"] = Reader(encoder, "apart")
    return readers


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
    return extract({**readers}, samples.load(samples.passes()), samples.samples, lens(card, config), title, first)


def judge_attentive(
    readers: dict[EncoderName, Reader],
    train_set: Shards,
    test_set: Shards,
    labels: Int[Tensor, "S"],
    card: EncoderCard,
    config: ProbeConfig,
) -> tuple[list[Row], dict[str, list[AttentiveTrial]]]:
    """The number of each encoder that has tokens, and by encoder the heads it was chosen from."""
    settings, started, through = config.attentive, time.perf_counter(), lens(card, config)
    train = feed(train_set, card, config, settings.segments, 1, 0)
    test = feed(test_set, card, config, settings.segments, settings.views, train.samples)
    tokens = kept_if_small(FreshTokens({**readers}, train, through), settings.memory_gb)
    classes, limit = len(train_set.manifest.classes or ()), attention_heads(card.encoder, settings)
    results = attentive_probe(tokens, labels, FreshTokens({**readers}, test, through), classes, limit, config)
    given: Settings = {"form": settings.form, "epochs": settings.epochs}
    if train_set.manifest.kind == "videos":
        given |= {"segments": settings.segments, "views": settings.views}
    rows = [
        row(name, "attentive", given | results[name].chosen.model_dump(), results[name].correct, test.samples, config.seed, started)
        for name in readers
    ]
    return rows, {name: result.trials for name, result in results.items()}
