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

RANKED = 10_000
"""Training samples whose features' rank is measured, or all if there are fewer; the singular values wait for no more."""


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
    readers = readers_of(card, encoder, config.seed, clips=train_set.manifest.kind == "videos")
    names: list[EncoderName] = [*readers, "pixels"]
    train = extract_set(readers, train_set, card, config, "training set")
    unseen = extract_set(readers, test_set, card, config, "test set", first=train_set.manifest.samples)
    check_unchanged(encoder, before)

    rows, selection = judge(names, train, unseen, card, config, train_set)
    attentive = {}
    if "attentive" in config.protocols:
        more, attentive = judge_attentive(readers, train_set, test_set, train.labels, card, config)
        rows += more
        check_unchanged(encoder, before)
    name = without_secrets(str(data)).rstrip("/").rpartition("/")[2] if is_remote(str(data)) else Path(data).resolve().name
    report = ProbeReport(
        data=name,
        data_hash={"train": train_set.manifest.hash(), "test": test_set.manifest.hash()},
        config_hash=card.config_hash,
        weights_hash=before,
        step=card.step,
        version=__version__,
        probe=config,
        rows=rows,
        rankme=ranks(names, train),
        selection=selection,
        attentive_selection=attentive,
    )
    path = (out or Path(run) / "probes") / f"{name}-{report_key(report)}.json"
    save_report(path, report)
    show(report, train_set.manifest.kind, path)
    return rows


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


def judge(
    names: Sequence[EncoderName], train: Features, test: Features, card: EncoderCard, config: ProbeConfig, shards: Shards
) -> tuple[list[Row], dict[str, list[Trial]]]:
    """Every number of pooled features, and by encoder the heads its linear one was chosen from."""
    rows, selection, classes = [], {}, len(shards.manifest.classes or ())
    clips: Settings = {"segments": config.segments} if shards.manifest.kind == "videos" else {}
    for name in names:
        kinds, unseen = wanted(train.encoders[name], config), test.encoders[name]
        more = clips | (pixels_size(kinds[PIXELS].shape[1], card) if name == PIXELS else {})
        if "linear" in config.protocols:
            started = time.perf_counter()
            linear = linear_probe(kinds, train.labels, unseen, test.labels, classes, config)
            selection[name] = linear.trials
            settings = linear.chosen.model_dump() | more
            rows.append(row(name, "linear", settings, linear.correct, len(test.labels), config.seed, started))
        for kind, vectors in kinds.items() if "knn" in config.protocols else ():
            started = time.perf_counter()
            counts = knn_probe(vectors, train.labels, unseen[kind], test.labels, classes, config.k)
            for k, correct in counts.items():
                rows.append(row(name, "knn", {"features": kind, "k": k} | more, correct, len(test.labels), config.seed, started))
    return rows, selection


def pixels_size(width: int, card: EncoderCard) -> Settings:
    """Of the images or clips that were shrunk to vectors of this width."""
    if not reads_clips(card):
        return {"side": round((width / 3) ** 0.5)}
    assert isinstance(card.encoder, EncoderConfig)
    frames = min(PIXELS_FRAMES, card.encoder.frames)
    return {"frames": frames, "side": round((width / 3 / frames) ** 0.5)}


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


def row(encoder: EncoderName, protocol: Protocol, settings: Settings, correct: int, total: int, seed: int, started: float) -> Row:
    return Row(
        encoder=encoder,
        protocol=protocol,
        settings=settings,
        top1=correct / total,
        ci95=wilson_interval(correct, total),
        n_test=total,
        seed=seed,
        seconds=round(time.perf_counter() - started, 3),
    )


def ranks(names: Sequence[EncoderName], train: Features) -> dict[str, float]:
    """RankMe of each encoder's pooled features and of the pixels, on samples spread evenly over the training set."""
    count = min(RANKED, len(train.labels))
    places = torch.arange(count) * len(train.labels) // count
    return {name: float(rankme(train.encoders[name][PIXELS if name == PIXELS else "last"][places])) for name in names}


def wanted(kinds: Kinds, config: ProbeConfig) -> Kinds:
    return {kind: vectors for kind, vectors in kinds.items() if kind in (*config.features, PIXELS)}
