"""Comparison of the labels of a training and a test set, before anything is decoded: what no classifier can get right."""

from collections.abc import Sequence

from jaxtyping import Int64
from torch import Tensor

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.tar_reader import printable
from jepa_pipeline.results.label_counts import LabelCounts


def shared_classes(train: Sequence[str], test: Sequence[str]) -> tuple[str, ...] | None:
    """Return the classes of both sets, those of the training set first; None if each has some that the other lacks.

    A class is known by its name. Sets that were built each by itself may lack a class, and then number the others differently.
    """
    if list(train) == list(test):
        return tuple(train)
    repeated = len({*train}) < len(train) or len({*test}) < len(test)
    if repeated or ({*train} - {*test} and {*test} - {*train}):
        return None
    return (*train, *(name for name in test if name not in {*train}))


def count_labels(train: Int64[Tensor, "S"], test: Int64[Tensor, "Q"], classes: Sequence[str]) -> LabelCounts:
    """Return what a comparison of the histograms of both sets shows."""
    in_train, in_test = (labels.bincount(minlength=len(classes)).tolist() for labels in (train, test))
    missing = {number: count for number, count in enumerate(in_test) if count and not in_train[number]}
    frequent = max(range(len(classes)), key=lambda number: in_train[number])
    return LabelCounts(
        classes=len(classes),
        train_classes=sum(map(bool, in_train)),
        test_classes=sum(map(bool, in_test)),
        without_training={unique_name(classes, number): count for number, count in missing.items()},
        impossible=sum(missing.values()),
        most_frequent_top1=in_test[frequent] / len(test),
        n_test=len(test),
    )


def unique_name(classes: Sequence[str], number: int) -> str:
    name = classes[number]
    return f"{name} ({number})" if classes.count(name) > 1 else name


def check_counts(counts: LabelCounts, train: str, test: str, classes: Sequence[str]) -> None:
    """Check that accuracies can mean something.

    Raises:
        UserError: the training set has a single class, or none of the test set's.
    """
    if counts.train_classes == 1:
        only = f" of {len(classes)}" if len(classes) > 1 else f" ({printable(classes[0])})"
        raise UserError(
            f"{train} has samples of one class{only}, so that every prediction is that class and the accuracy means nothing: "
            "probe on data of two classes or more"
        )
    if not counts.attainable_top1:
        raise UserError(
            f"no class of {test} has a sample in {train}, so that no prediction can be right: name two sets with the same classes"
        )
