"""Labels of the samples in indexed tars: of the tars themselves, or of a list."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.class_names import check_range, count_names, number_classes
from jepa_pipeline.data.index import load_index, save_index
from jepa_pipeline.data.label_list import LabelList, hash_labels
from jepa_pipeline.data.manifest import Shard, Skipped
from jepa_pipeline.data.member_labels import MAX_CLASSES
from jepa_pipeline.data.summary import metadata_table
from jepa_pipeline.data.tar_reader import printable
from jepa_pipeline.data.tar_samples import Defect


class TarSummary(NamedTuple):
    """The summary of an indexed tar.

    labeled_by: samples by the origin of their label. labels: samples by label. choice: extensions of images or videos that some
    sample has several of. videos: table of their metadata.
    """

    shard: Shard
    extensions: set[str]
    labeled_by: Counter[str | None]
    labels: Counter[int | None]
    choice: tuple[str, ...]
    defects: list[Defect]
    videos: Float64[np.ndarray, "N 5"]


class Labels(NamedTuple):
    """The classes of indexed tars; sentences on them; one on labels or classes that were lost; samples without a row of a list."""

    classes: tuple[str, ...] | None
    notes: list[str]
    lost: str | None = None
    unlisted: Sequence[Skipped] = ()
    made: Mapping[str, str] = {}


def name_labels(tars: Sequence[TarSummary], names: tuple[str, ...] | None) -> Labels:
    """Return the classes of the labels in the tars: the names given, or the numbers if all samples have a label.

    Raises:
        UserError: labels are beyond the names, so that a name is missing or all are those of other labels.
    """
    labels = sum((tar.labels for tar in tars), Counter[int | None]())
    defects = [(tar.shard.file, defect) for tar in tars for defect in tar.defects]
    unread = [(file, defect) for file, defect in defects if defect.kind in ("label", "late")]
    example = f"{printable(unread[0][0])}: {unread[0][1]}" if unread else ""
    if names is not None:
        beyond = {defect.label: file for file, defect in unread if defect.label is not None and defect.label < MAX_CLASSES}
        if (largest := max(beyond, default=-1)) >= len(names):
            used = {label for label in (*labels, *beyond) if label is not None and label >= 0}
            check_range(used, len(names), printable(beyond[largest]))
        empty = [name for number, name in enumerate(names) if not labels[number]]
        notes = [f"no sample has the label of {count_names([*map(printable, empty)], 'class')}"] if empty else []
        lost = f"{len(unread)} samples were lost with their labels, as in {example}" if unread and empty else None
        if unknown := sorted({defect.unknown for _, defect in unread if defect.unknown is not None}):
            first = next(f"{printable(file)}: {defect}" for file, defect in unread if defect.unknown is not None)
            lacking = count_names([*map(printable, unknown)], "class")
            lost = f"lost: {lacking} that --classes lacks, as in {first}: add a line for each of them, or correct the labels"
        return Labels(names, [*notes, *describe_first(labels)], lost)
    if None not in labels:
        numbers = range(1 + max(label for label in labels if label is not None))
        empty = sum(not labels[number] for number in numbers)
        notes = [f"{empty} of {len(numbers)} classes have no sample: labels are numbers up to {max(numbers)}"] if empty else []
        return Labels(tuple(map(str, numbers)), [*notes, *describe_first(labels)])
    labeled = labels.total() - labels[None]
    if labeled:
        cause = f"; {example}" if unread else ""
        cure = "--classes FILE would skip the others instead, --labels none leaves labels out"
        return Labels(None, [], f"no classes, because only {labeled} samples have a label: {cure}{cause}")
    if unread:
        names_too = "--classes FILE reads names of classes too, " if any(defect.kind == "label" for _, defect in unread) else ""
        cure = f"{names_too}--labels FILE takes labels from a list, --labels none leaves them out"
        return Labels(None, [], f"no classes, because none of {len(unread)} labels could be read, as in {example}: {cure}")
    return Labels(None, ["no classes, because no sample has a label, neither in a .cls nor in a .json"])


def describe_first(labels: Counter[int | None]) -> list[str]:
    """Return a sentence if labels seem to begin at 1."""
    used = {label for label in labels if label is not None}
    if 0 in used or used != {*range(1, 1 + max(used, default=0))}:
        return []
    return [
        f"labels begin at 1 and end at {max(used)}, so that class 0 is empty: see that names of classes begin with that of label 0"
    ]


def label_by_list(
    staged: Path, location: str, tars: Sequence[TarSummary], labels: LabelList, names: tuple[str, ...] | None
) -> tuple[list[TarSummary], Labels]:
    """Give the samples of all indexes the labels of a list; return the tars with such samples, and their classes.

    Raises:
        UserError: the list does not fit the samples or the names.
    """
    classes, numbers = number_classes(labels.labels, names, str(labels.source))
    labels.locate(location, [tar.shard.file for tar in tars])
    kept: list[TarSummary] = []
    skipped: list[Skipped] = []
    labeled: list[tuple[str, int | None]] = []
    reason = f"{labels.source.name} has no label for it"
    for tar in tars:
        index = load_index(staged / tar.shard.file)
        found = [labels.find(key, f"{tar.shard.file}/") for key in index.keys]
        unlisted = [key for key, label in zip(index.keys, found, strict=True) if label is None]
        skipped += [Skipped(file=f"{tar.shard.file}/{key}", reason=reason) for key in unlisted]
        members = [member for member, label in enumerate(found) if label is not None]
        if not members:
            continue
        chosen = index.select(members, [numbers[label] for label in found if label is not None])
        save_index(chosen, staged / tar.shard.file)
        labeled += zip(chosen.keys, chosen.labels, strict=True)
        shard = replace(tar.shard, samples=len(members))
        counts = Counter[str | None]({"list": len(members)})
        kept.append(
            tar._replace(shard=shard, labeled_by=counts, labels=Counter(chosen.labels), videos=metadata_table(chosen.videos))
        )
    if not kept:
        labels.check_fits(skipped[0].file, "the tars")
        raise UserError(f"{labels.source} gives none of {len(skipped)} samples a label: name a list of these samples")
    labels.check_parts()
    notes = labels.describe_unfitted()
    if skipped:
        example, total = printable(skipped[0].file), len(skipped) + len(labeled)
        notes.append(f"{len(skipped)} of {total} samples have no label in {labels.source}, such as {example}: they are skipped")
    missing = [*map(printable, labels.lost_classes())]
    lost = f"lost: {count_names(missing, 'class')} without a sample" if missing else None
    made = {"label_list": labels.source.name, "label_list_sha256": hash_labels(labeled)}
    return kept, Labels(classes.names, notes, lost, skipped, made)
