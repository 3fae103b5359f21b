"""Labeled data sets for probes: finding, opening and checking them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset

from jepa_pipeline.config.encoder_card import EncoderCard
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.custom import class_path
from jepa_pipeline.data.custom import CustomSamples, require_shards
from jepa_pipeline.data.manifest import INDEXED, read_manifest
from jepa_pipeline.data.media import check_stored
from jepa_pipeline.data.missing import MANIFEST, command_that_makes, commands_to_build, first_media
from jepa_pipeline.data.open_shard import NO_LABEL
from jepa_pipeline.data.remote import is_remote, join_url
from jepa_pipeline.data.shards import SampleError, Shards
from jepa_pipeline.data.tar_reader import printable
from jepa_pipeline.probes.knn import check_neighbors
from jepa_pipeline.probes.label_coverage import check_counts, count_labels, shared_classes
from jepa_pipeline.probes.linear import check_pairs
from jepa_pipeline.redaction import redact
from jepa_pipeline.results.label_counts import LabelCounts

PARTS = ("train", "test")


def find_labeled_data(run: Path) -> str:
    """Return the folder or URL around a run's first training shards, if it has labeled shards in train/ and test/.

    Raises:
        UserError: it has none, or the run has no configuration.
    """
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run} holds no config.yaml that names its training data: name labeled shards with --data")
    parent = parent_location(require_shards(load_config(run).data.train[0]))
    if not is_remote(parent) and not Path(parent).is_dir():
        raise UserError(f"{run} was trained on {parent}, which is not here: name the place of the labeled shards with --data")
    for part in PARTS:
        if not has_labels(join_url(parent, part) if is_remote(parent) else f"{parent}/{part}"):
            raise UserError(
                f"looked for labeled shards in {redact(parent)}/train and /test, because {run} was trained on shards "
                f"there, but {part}/ has none: name labeled shards with --data"
            )
    return parent


def parent_location(location: str) -> str:
    """Return the parent of a folder or URL."""
    if not is_remote(location):
        return str(Path(location).parent)
    parts = urlsplit(location)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/").rpartition("/")[0]))


def has_labels(location: str) -> bool:
    if not is_remote(location) and not (Path(location) / MANIFEST).is_file():
        return False
    return bool(read_manifest(location).classes)


def set_name(location: str) -> str:
    """Return the name of a data set in reports: the last part of its folder or URL."""
    return redact(location).rstrip("/").rpartition("/")[2] if is_remote(location) else Path(location).resolve().name


def open_labeled_sets(data: str, test: str | None) -> tuple[Shards, Shards]:
    """Open the labeled training and test shards; see plan_probe.

    Raises:
        UserError: there are none, they have no labels, or they do not belong together.
    """
    if test is None:
        folder = Path(data)
        if not is_remote(data) and not all((folder / part / MANIFEST).is_file() for part in PARTS):
            raise UserError(
                f"{data} does not hold train/ and test/ shards: {describe_making(folder)}, or name the test shards with --test"
            )
        data, test = (join_url(data, part) if is_remote(data) else str(folder / part) for part in PARTS)
    train_set, test_set = Shards(data), Shards(test)
    for location, shards in ((data, train_set), (test, test_set)):
        if not shards.manifest.classes:
            cure = (
                "index its tars with --labels FILE"
                if shards.manifest.made.get("by") == INDEXED
                else "build its shards from two class folders or more, or with --labels FILE"
            )
            raise UserError(f"{redact(location)} has no classes, but a probe needs labels of two classes or more: {cure}")
    classes, test_classes = train_set.manifest.classes or (), test_set.manifest.classes or ()
    if shared_classes(classes, test_classes) is None:
        raise UserError(describe_difference(data, classes, test, test_classes))
    if {shard.sha256 for shard in train_set.manifest.shards} & {shard.sha256 for shard in test_set.manifest.shards}:
        raise UserError(f"{data} and {test} share shards: a test set must not hold training samples")
    return train_set, test_set


def open_own_sets(train: Dataset[Any], test: Dataset[Any]) -> tuple[Shards, Shards]:
    """Return the labeled items of a user's own training and test set.

    Raises:
        UserError: they have no labels of two classes or more, or not the same classes.
    """
    train_set, test_set = (CustomSamples(data, class_path(type(data))) for data in (train, test))
    for shards in (train_set, test_set):
        shards.read_classes()
    classes, test_classes = train_set.manifest.classes or (), test_set.manifest.classes or ()
    if shared_classes(classes, test_classes) is None:
        raise UserError(describe_difference(train_set.location, classes, test_set.location, test_classes))
    return train_set, test_set


def describe_making(folder: Path) -> str:
    """Return how to make a folder of labeled shards; one that holds images is not the place for them."""
    if not folder.is_dir():
        return f"if they moved, name their new place, else make them with `{command_that_makes(folder / PARTS[0])}`"
    command = "`jepa shards build IMAGES SHARDS --split 0.1`"
    return f"make them with {commands_to_build(folder, ' --split 0.1') if first_media(folder) else command} and name SHARDS"


def describe_difference(data: str, classes: Sequence[str], test: str, test_classes: Sequence[str]) -> str:
    """Return a sentence on two sets that may not have the same classes."""
    if len({*classes}) < len(classes) or len({*test_classes}) < len(test_classes):
        difference, cure = "and some have the same name", "give each class of both its own name"
    else:
        only = next(name for name in classes if name not in test_classes)
        other = next(name for name in test_classes if name not in classes)
        difference = f"so that {printable(only)!r} is only in the first and {printable(other)!r} only in the second"
        cure = "give classes the same names in both, or name a test set of the same classes"
    first, second = (f"{len(names)} ({first_few(names)})" for names in (classes, test_classes))
    return f"{redact(data)} has the classes {first} but {redact(test)} has {second}, {difference}: {cure}"


def first_few(names: Sequence[str]) -> str:
    return f"{', '.join(map(printable, names[:3]))}{', ...' if len(names) > 3 else ''}"


def compare_labels(train_set: Shards, test_set: Shards) -> tuple[int, LabelCounts]:
    """Return the number of classes of both sets, and what their histograms of labels show, without decoding anything.

    From then on both sets give a class, known by its name, the same label.

    Raises:
        UserError: no accuracy would mean anything.
    """
    classes = shared_classes(train_set.manifest.classes or (), test_set.manifest.classes or ())
    if classes is None:
        raise ValueError("the sets have different classes, which open_labeled_sets refuses")
    for shards in (train_set, test_set):
        shards.renumber(classes)
    counts = count_labels(read_labels(train_set), read_labels(test_set), classes)
    check_counts(counts, redact(train_set.location), redact(test_set.location), classes)
    return len(classes), counts


def read_labels(shards: Shards) -> Int64[Tensor, "S"]:
    """Return the labels of all samples from the indexes of the shards, without decoding any sample.

    Raises:
        SampleError: a shard, its index or its first sample is missing or damaged.
        UserError: a sample has no label, or a shard could not be fetched or read.
    """
    numbers = range(len(shards.counts))
    shards.prefetch(numbers)
    labels = np.concatenate([read_shard_labels(shards, number) for number in numbers])
    if unlabeled := int((labels == NO_LABEL).sum()):
        location = redact(shards.location)
        raise UserError(f"{unlabeled} of {len(labels)} samples of {location} have no label: probes need labeled shards")
    return torch.from_numpy(labels)


def read_shard_labels(shards: Shards, number: int) -> np.ndarray:
    shards.read(number, 0)  # reports a damaged shard, which opening it does not
    return shards.shard_labels(number)


def check_set_size(train_set: Shards, config: ProbeConfig) -> None:
    """Raise UserError, before anything is decoded, if the training set is too small for the protocols."""
    samples, classes = train_set.manifest.samples, train_set.manifest.classes or ()
    if "knn" in config.protocols:
        check_neighbors(config.k, samples)
    if {"linear", "attentive"} & {*config.protocols} and samples <= len(classes):  # with more, some class has two
        check_pairs(read_labels(train_set))


@contextmanager
def explain_damage(kind: DataKind) -> Iterator[None]:
    """Add the cure to the error of a damaged sample: a probe skips none, because its accuracy is that of the whole set.

    Raises:
        UserError: a sample cannot be used.
    """
    try:
        yield
    except SampleError as error:
        omitted = " (with --reencode such are left out)" if kind == "videos" else ""
        raise UserError(f"{error}; remove it from the {kind} and build the shards anew{omitted}") from error


def check_media(card: EncoderCard, train_set: Shards, test_set: Shards) -> None:
    """Raise UserError for videos with an image encoder, and for one set of videos and one of images."""
    kind, test_kind = train_set.manifest.kind, test_set.manifest.kind
    train, test = redact(train_set.location), redact(test_set.location)
    if kind != test_kind:
        raise UserError(f"{train} holds {kind} but {test} holds {test_kind}: name two sets of the same kind")
    for shards in (train_set, test_set):
        check_input(card, shards)


def check_input(card: EncoderCard, shards: Shards) -> None:
    """Raise UserError if an encoder does not take the samples of a data set."""
    kind, unit = shards.manifest.kind, card.encoder.modality.unit
    if kind not in card.encoder.modality.data_kinds:
        raise UserError(f"{card.name} takes {unit}, but {redact(shards.location)} holds {kind}: name {unit}, or a video encoder")
    check_stored(shards.location, shards.manifest, card.pixel_format)
    if kind == "videos" and card.clip is None:
        raise UserError(f"the card of {card.name} does not define the frames of a clip: add `clip` to it, as in ClipConfig")
