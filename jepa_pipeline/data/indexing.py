"""Building of the index of a tar by reading it once."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from jepa_pipeline.data.index import ShardIndex
from jepa_pipeline.data.manifest import Shard
from jepa_pipeline.data.sample import IMAGE_EXTENSIONS, LABEL, VIDEO_EXTENSIONS, DecodeError
from jepa_pipeline.data.tar_reader import HashingReader, Readable, ShardError, printable
from jepa_pipeline.data.tar_samples import MEDIA, Defect, TarSample, iter_samples, set_arrays_aside
from jepa_pipeline.data.video import open_video

MAX_EXTENSIONS = 64
"""Most extensions that the members of a shard may have; the index has a list as long as the shard for each."""


class IndexedShard(NamedTuple):
    """A shard's entry in the manifest, its index, its defects, and the number of samples by the origin of their label."""

    shard: Shard
    index: ShardIndex
    defects: list[Defect]
    labeled_by: Counter[str | None]


def index_shard(
    file: Readable,
    name: str,
    classes: Sequence[str] | None = None,
    *,
    media: tuple[str, ...] = MEDIA,
    member: str | None = None,
    open_videos: bool = True,
) -> IndexedShard:
    """Read a shard once and return its index and its entry in the manifest.

    Args:
        file: the tar.
        name: its file name.
        classes: names; if given, samples need a label that is the number or the name of one.
        media: extensions of images and videos that count.
        member: the only member that counts, see iter_samples.
        open_videos: read the metadata of videos, and skip those that do not open; False if the caller has it.

    Raises:
        ShardError: it is not a complete tar, has no usable sample, or has both images and videos.
    """
    reader = HashingReader(file)
    samples: list[TarSample] = []
    defects: list[Defect] = []
    for result in iter_samples(reader, classes, media=media, read=VIDEO_EXTENSIONS if open_videos else (), member=member):
        if isinstance(result, TarSample) and result.media:
            result = read_metadata(result)
        defects.append(result) if isinstance(result, Defect) else samples.append(result)
    samples, set_aside = set_arrays_aside(samples)
    defects += set_aside
    if not samples:
        by_cause = sorted(defects, key=lambda defect: (defect.kind != "late", not defect.skipped, defect.kind != "key"))
        first = next((f" ({printable(defect.name)}: {defect.reason})" for defect in by_cause), "")
        raise ShardError(f"it holds no sample that can be used{first}")
    check_same_kind(samples)
    if samples[0].kind == "videos":  # only now is it known which members were missing
        images, videos = ", ".join(IMAGE_EXTENSIONS), ", ".join(VIDEO_EXTENSIONS)
        defects = [defect._replace(reason=defect.reason.replace(images, videos)) for defect in defects]
    shard = Shard(file=name, samples=len(samples), bytes=reader.bytes, sha256=reader.sha256.hexdigest())
    return IndexedShard(shard, build_index(samples), defects, Counter(sample.labeled_by for sample in samples))


def read_metadata(sample: TarSample) -> TarSample | Defect:
    """Return a video with its metadata instead of its bytes, or the defect for which it is skipped."""
    try:
        return sample._replace(media=b"", metadata=open_video(sample.media).metadata)
    except DecodeError as error:
        return unreadable_video(sample.key, error)


def unreadable_video(key: str, error: DecodeError) -> Defect:
    return Defect("video", key, f"its video cannot be read ({error})")


def check_same_kind(samples: list[TarSample]) -> None:
    examples = {sample.kind: sample.key for sample in samples}
    if len(examples) > 1:
        counts = Counter(sample.kind for sample in samples)
        raise ShardError(
            f"it holds {counts['images']} images, such as {printable(examples['images'])}, and {counts['videos']} videos, such as "
            f"{printable(examples['videos'])}: pack them into separate tars, index those separately, and mix them in data.train"
        )


def build_index(samples: list[TarSample]) -> ShardIndex:
    """Return the index of samples in the order of the tar.

    Raises:
        ShardError: their members have too many extensions.
    """
    extensions = sorted({extension for sample in samples for extension in sample.ranges} - {LABEL})
    if len(extensions) > MAX_EXTENSIONS:
        raise ShardError(
            f"its members have {len(extensions)} extensions, such as {printable(extensions[0])}, more than {MAX_EXTENSIONS}: "
            "an extension begins at the first dot of a name, so rename its members to have one dot"
        )
    members = {extension: [sample.ranges.get(extension) for sample in samples] for extension in extensions}
    videos = [s.metadata for s in samples] if any(s.metadata for s in samples) else None
    return ShardIndex(keys=[s.key for s in samples], members=members, labels=[s.label for s in samples], videos=videos)
