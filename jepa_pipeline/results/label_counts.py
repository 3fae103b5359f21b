"""Counts of labels in a probe's report: what limits its accuracies."""

from collections.abc import Iterator

from pydantic import Field

from jepa_pipeline.config.section import Section


class LabelCounts(Section):
    """Classes of the training and the test set of a probe, by the samples that they have."""

    classes: int = Field(description="Classes of both sets.")
    train_classes: int = Field(description="Classes with a training sample.")
    test_classes: int = Field(description="Classes with a test sample.")
    without_training: dict[str, int] = Field(
        description="Test samples by class, of classes without a training sample: no classifier can get them right."
    )
    impossible: int = Field(description="Test samples of those classes.")
    most_frequent_top1: float = Field(
        ge=0, le=1, description="Accuracy of always predicting the most frequent class of the training set."
    )
    n_test: int = Field(ge=1, description="Test samples.")

    @property
    def attainable_top1(self) -> float:
        """The accuracy of a classifier that gets every test sample right whose class has a training sample."""
        return 1 - self.impossible / self.n_test

    def sentences(self) -> Iterator[str]:
        """Yield what the accuracies cannot show."""
        if self.without_training:
            first, *others = self.without_training
            names = f"{len(self.without_training)} classes, such as {first}," if others else f"class {first},"
            yield (
                f"{self.impossible} of {self.n_test} test samples are of {names} without a training sample: no accuracy can be "
                f"above {100 * self.attainable_top1:.1f} %"
            )
        tested = self.test_classes - len(self.without_training)
        if tested < self.train_classes:
            yield f"{tested} of {self.train_classes} classes with training samples have test samples: accuracies are of those alone"
