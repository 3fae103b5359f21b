"""Judge a run's encoder by what simple classifiers can read from its features, beside an untrained encoder and raw pixels."""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from jepa_pipeline import __version__
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.data.loader import eval_loader
from jepa_pipeline.data.manifest import MANIFEST
from jepa_pipeline.data.remote import is_remote, join, without_secrets
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.models.build import AnyEncoder, build_encoder
from jepa_pipeline.models.weights import EncoderCard, hash_weights, load_encoder, read_card
from jepa_pipeline.probes.features import PIXELS, Features, Kinds, extract
from jepa_pipeline.probes.health import rankme
from jepa_pipeline.probes.interval import wilson_interval
from jepa_pipeline.probes.knn import knn_probe
from jepa_pipeline.probes.linear import Trial, linear_probe
from jepa_pipeline.probes.report import EncoderName, ProbeReport, Protocol, Row, Settings, save_report

RANKED = 10_000
"""Training samples whose features' rank is measured, or all if there are fewer; the singular values wait for no more."""


def probe(
    run: str | Path, data: str | Path, test: str | Path | None = None, config: ProbeConfig | None = None, out: Path | None = None
) -> list[Row]:
    """Linear and k-NN accuracies of a run's encoder and of its baselines.

    Args:
        run: a run folder, or the folder of an encoder.
        data: a folder or URL with labelled shards in train/ and test/, or the training shards where `test` is given.
        test: the test shards.
        config: the probe's settings; the defaults unless given.
        out: folder of the JSON; RUN/probes unless given.

    Raises:
        UserError: there is no encoder, no data, no labels, or the two sets do not belong together.
    """
    config = config or ProbeConfig.model_validate({})
    card, encoder = read_card(run), load_encoder(run)
    before = hash_weights(encoder)
    train_set, test_set = open_sets(str(data), None if test is None else str(test))
    names: tuple[EncoderName, ...] = (card.kept, "random_init", "pixels")
    encoders = {card.kept: encoder, "random_init": random_encoder(card.encoder, config.seed)}
    train = extract_set(encoders, train_set, card, config, "training set")
    unseen = extract_set(encoders, test_set, card, config, "test set")
    if hash_weights(encoder.cpu()) != before:
        raise RuntimeError("the probe changed the encoder's weights: its numbers would not be this encoder's")

    classes = len(train_set.manifest.classes or ())
    rows, selection = judge(names, train, unseen, classes, config)
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
    )
    path = (out or Path(run) / "probes") / f"{name}-{report_key(report)}.json"
    save_report(path, report)
    show(report, path)
    return rows


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


def random_encoder(config: EncoderConfig | BackboneConfig, seed: int) -> AnyEncoder:
    """An encoder of the same shape that has learned nothing: its batch norms, too, have the statistics they begin with, 0 and 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_encoder(config).requires_grad_(False).eval()


def extract_set(encoders: dict[str, AnyEncoder], shards: Shards, card: EncoderCard, config: ProbeConfig, title: str) -> Features:
    loader = eval_loader(shards, card.encoder.image_size, config.batch_size, config.workers)
    return extract(encoders, loader, shards.manifest.samples, card.mean, card.std, config.precision, title)


def judge(
    names: Sequence[EncoderName], train: Features, test: Features, classes: int, config: ProbeConfig
) -> tuple[list[Row], dict[str, list[Trial]]]:
    """Every number, and by encoder the heads its linear one was chosen from."""
    rows, selection = [], {}
    for name in names:
        kinds, unseen = wanted(train.encoders[name], config), test.encoders[name]
        started = time.perf_counter()
        linear = linear_probe(kinds, train.labels, unseen, test.labels, classes, config)
        selection[name] = linear.trials
        size = {"side": round((kinds[PIXELS].shape[1] / 3) ** 0.5)} if name == PIXELS else {}
        rows.append(row(name, "linear", linear.chosen.model_dump() | size, linear.correct, len(test.labels), config.seed, started))
        for kind, vectors in kinds.items():
            started = time.perf_counter()
            counts = knn_probe(vectors, train.labels, unseen[kind], test.labels, classes, config.k)
            for k, correct in counts.items():
                rows.append(row(name, "knn", {"features": kind, "k": k} | size, correct, len(test.labels), config.seed, started))
    return rows, selection


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


def show(report: ProbeReport, path: Path) -> None:
    """Print each encoder's rows, best first, the ranks, and where they were written."""
    names, title = list(report.rankme), f"{report.rows[0].n_test} test images"
    caption = "RankMe of the last features: " + ", ".join(f"{name} {rank:.1f}" for name, rank in report.rankme.items())
    table = Table("encoder", "protocol", "settings", "top-1 %", "95 % interval", "seconds", title=title, caption=caption)
    for row in sorted(report.rows, key=lambda row: (names.index(row.encoder), -row.top1)):
        strength = f"k {row.settings['k']}" if row.protocol == "knn" else f"decay {row.settings['weight_decay']:g}"
        side = f" {row.settings['side']}x{row.settings['side']}" if "side" in row.settings else ""
        settings = f"{row.settings['features']}{side}, {strength}"
        interval = f"{100 * row.ci95[0]:.2f} - {100 * row.ci95[1]:.2f}"
        table.add_row(row.encoder, row.protocol, settings, f"{100 * row.top1:.2f}", interval, f"{row.seconds:.1f}")
    console = Console()
    console.print(table)
    console.print(f"written to {path}", soft_wrap=True, markup=False, highlight=False)
