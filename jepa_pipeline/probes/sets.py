"""The labeled data sets of a probe: found, opened, and refused where they cannot be used."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.data.manifest import MANIFEST, read_manifest
from jepa_pipeline.data.remote import is_remote, join, without_secrets
from jepa_pipeline.data.samples import Kind
from jepa_pipeline.data.shards import SampleError, Shards
from jepa_pipeline.models.weights import EncoderCard
from jepa_pipeline.probes.knn import check_neighbors
from jepa_pipeline.probes.labels import read_labels
from jepa_pipeline.probes.linear import check_pairs

PARTS = ("train", "test")


def sets_around(run: Path) -> str:
    """The folder or URL around a run's (first) training shards, which holds labeled shards in train/ and test/.

    Raises:
        UserError: it does not, or the run does not say what it was trained on.
    """
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run} holds no config.yaml that says what it was trained on: name labeled shards with --data")
    place = around(load_config(run).data.train[0].path)
    for part in PARTS:
        if not labeled(join(place, part) if is_remote(place) else f"{place}/{part}"):
            raise UserError(
                f"looked for labeled shards in {without_secrets(place)}/train and /test, for {run} was trained on shards there, "
                f"but {part}/ has none: name labeled shards with --data"
            )
    return place


def around(location: str) -> str:
    """The folder or URL in which a folder or URL lies."""
    if not is_remote(location):
        return str(Path(location).parent)
    parts = urlsplit(location)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/").rpartition("/")[0]))


def labeled(location: str) -> bool:
    if not is_remote(location) and not (Path(location) / MANIFEST).is_file():
        return False
    return bool(read_manifest(location).classes)


def set_name(data: str) -> str:
    """What a data set is called in reports: the last part of its folder or URL."""
    return without_secrets(data).rstrip("/").rpartition("/")[2] if is_remote(data) else Path(data).resolve().name


def open_sets(data: str, test: str | None) -> tuple[Shards, Shards]:
    """The labeled training and test shards, each in a folder or at a URL."""
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
        check_neighbors(config.k, samples)
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
