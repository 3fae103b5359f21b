"""Judge a run's encoder by what simple classifiers can read from its features, beside an untrained encoder and raw pixels."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from jepa_pipeline import __version__
from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.data.clip_list import ClipList
from jepa_pipeline.data.collate import ImageList
from jepa_pipeline.data.manifest import MANIFEST
from jepa_pipeline.data.remote import is_remote, join, without_secrets
from jepa_pipeline.data.samples import Kind
from jepa_pipeline.data.shards import SampleError, Shards
from jepa_pipeline.models.build import AnyEncoder, build_encoder
from jepa_pipeline.models.weights import EncoderCard, hash_weights, load_encoder, read_card
from jepa_pipeline.probes.attentive import attention_heads, attentive_probe
from jepa_pipeline.probes.features import Features, Lens, extract
from jepa_pipeline.probes.feed import Feed
from jepa_pipeline.probes.judge import judge, ranks, row
from jepa_pipeline.probes.knn import check_neighbours
from jepa_pipeline.probes.labels import read_labels
from jepa_pipeline.probes.linear import check_pairs
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
    train_set, test_set = open_sets(str(data), None if test is None else str(test))
    check_media(card, train_set, test_set)
    name = without_secrets(str(data)).rstrip("/").rpartition("/")[2] if is_remote(str(data)) else Path(data).resolve().name
    report = ProbeReport(
        data=name,
        data_hash={"train": train_set.manifest.hash(), "test": test_set.manifest.hash()},
        config_hash=card.config_hash,
        weights_hash=hash_weights(encoder),
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
        if {"linear", "knn"} & {*config.protocols}:
            report = probe_pooled(report, readers, train_set, test_set, card)
            save_report(path, report)  # already, for the heads that follow take long and may fail
        if "attentive" in config.protocols:
            report = probe_attentive(report, readers, train_set, test_set, card)
            check_unchanged(encoder, report.weights_hash)
            save_report(path, report)
    show(report, train_set.manifest.kind, path)
    return report.rows


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


def check_sizes(train_set: Shards, config: ProbeConfig) -> None:
    """Refuse, before anything is decoded, training sets that are too small for what is asked for."""
    samples, classes = train_set.manifest.samples, train_set.manifest.classes or ()
    if "knn" in config.protocols:
        check_neighbours(config.k, samples)
    if {"linear", "attentive"} & {*config.protocols} and samples <= len(classes):  # if there are more, some class has two
        check_pairs(read_labels(train_set))


@contextmanager
def damage_has_a_cure(kind: Kind) -> Iterator[None]:
    """Say what to do about a damaged sample, for a probe skips none: its accuracy is that of the whole set.

    Raises:
        UserError: a sample cannot be used.
    """
    try:
        yield
    except SampleError as error:
        leave_out = " (with --reencode such are left out)" if kind == "videos" else ""
        raise UserError(f"{error}; remove it from the {kind} and build the shards anew{leave_out}") from error


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
    stills = reads_clips(card) and shards.manifest.kind == "images"
    loaded = samples.load(samples.passes())
    return extract({**readers}, loaded, samples.samples, lens(card, config), title, first, stills)


def probe_pooled(
    report: ProbeReport, readers: dict[EncoderName, Reader], train_set: Shards, test_set: Shards, card: EncoderCard
) -> ProbeReport:
    """The report with the numbers of pooled features and of the pixels, and their ranks."""
    config = report.probe
    names: list[EncoderName] = [*readers, "pixels"]
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
    classes, limit = len(train_set.manifest.classes or ()), attention_heads(card.encoder, settings)
    results = attentive_probe(tokens, read_labels(train_set), FreshTokens({**readers}, test, through), classes, limit, config)
    given: Settings = {"form": settings.form, "epochs": settings.epochs}
    if train_set.manifest.kind == "videos":
        given |= {"segments": settings.segments, "views": settings.views}
    rows = [
        row(name, "attentive", given | results[name].chosen.model_dump(), results[name].correct, test.samples, config.seed, started)
        for name in readers
    ]
    trials = {name: result.trials for name, result in results.items()}
    return report.model_copy(update={"rows": report.rows + rows, "attentive_selection": trials})
