"""Features of a frozen encoder for every sample of a data set, in order, a row for each."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.utils.data import Dataset

from jepa_pipeline.batch import Batch, Damaged
from jepa_pipeline.config.encoder_card import EncoderCard
from jepa_pipeline.data.shards import SampleError, Shards
from jepa_pipeline.data.views import normalize
from jepa_pipeline.probes.eval_loader import EvalLoader
from jepa_pipeline.probes.feature_extractors import FeatureExtractor
from jepa_pipeline.probes.feature_rows import Row
from jepa_pipeline.probes.features import add_mean

FeatureKind = Literal["last", "last4"]
"""Names of a feature in probes: the pooled one, or the means of the last four blocks concatenated."""


class Embedding(NamedTuple):
    """The features to compute.

    Attributes:
        card: of the encoder.
        extractor: with the encoder, on the device.
        name: of the features of the extractor.
        kind: which of them.
        device: where they are computed.
    """

    card: EncoderCard
    extractor: FeatureExtractor
    name: str
    kind: FeatureKind
    device: torch.device


class EmbeddedFeatures(NamedTuple):
    """The features of every sample of a data set, in order.

    Attributes:
        names: keys or paths of the samples; of an own data set their numbers.
        labels: numbers of their classes; -1 where a sample has none.
        values: a row for each sample; NaN for one that cannot be used.
        errors: why samples cannot be used, by their row.
    """

    names: list[str]
    labels: Int64[np.ndarray, "S"]
    values: Float32[np.ndarray, "S D"]
    errors: dict[int, str]


class IntactSamples(Dataset[Batch]):
    """Another data set of evaluation, whose batches lack the samples that cannot be used and name them instead."""

    def __init__(self, dataset: Dataset[Batch]) -> None:
        self.dataset = dataset

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return the batch of these samples; `damaged` has the others, with their index as their number."""
        intact, damaged = list[int](), list[Damaged]()
        try:
            return self.dataset.__getitems__(indices)  # pyright: ignore[reportAttributeAccessIssue]
        except SampleError:
            for index in indices:
                try:
                    self.dataset.__getitems__([index])  # pyright: ignore[reportAttributeAccessIssue]
                    intact.append(index)
                except SampleError as error:
                    damaged.append(Damaged(0, index, str(error)))
        batch = self.dataset.__getitems__(intact) if intact else Batch([], [], None, [], [])  # pyright: ignore[reportAttributeAccessIssue]
        return batch._replace(damaged=damaged)


@torch.no_grad()
def embed_batches(
    embedding: Embedding, shards: Shards, loader: EvalLoader, first: int
) -> Iterator[tuple[list[Row], Float32[np.ndarray, "S D"] | None]]:
    """Yield the rows of each batch from number `first` on, with the features of its intact samples; None if there are none."""
    batches = loader.batches()[first:]
    for numbers, batch in zip(batches, loader._replace(dataset=IntactSamples(loader.dataset)).load(batches), strict=True):
        errors = {damaged.sample: damaged.reason for damaged in batch.damaged}
        entries = (shards.entry(*position) for position in shards.locate(numbers))
        rows = [Row(key, label, errors.get(number)) for number, (key, label) in zip(numbers, entries, strict=True)]
        intact = [number for number in numbers if number not in errors]
        yield rows, embed_views(embedding, batch, intact) if intact else None


def embed_views(embedding: Embedding, batch: Batch, numbers: Sequence[int]) -> Float32[np.ndarray, "S D"]:
    """Return the features of a batch, the means over the clips of each sample, as probes compute them."""
    card, means = embedding.card, dict[str, Tensor]()
    for segment, view in enumerate(batch.views):
        pixels = normalize(view.to(embedding.device, non_blocking=True), card.mean, card.std)
        features = embedding.extractor.pooled_features(embedding.name, pixels, numbers, segment)[embedding.name]
        add_mean(means, slice(0, len(numbers)), len(numbers), {embedding.kind: features[embedding.kind]}, len(batch.views))
    return means[embedding.kind].numpy()
