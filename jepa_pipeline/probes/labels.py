"""The labels of a data set from its shards' indexes, without a look at its images or videos."""

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.remote import without_secrets
from jepa_pipeline.data.shards import NO_LABEL, Shards


def read_labels(shards: Shards) -> Int64[Tensor, "S"]:
    """In order of the samples' numbers.

    Raises:
        SampleError: a shard, its index or its first sample is missing or damaged.
        UserError: a sample has no label, or a shard could not be fetched or read.
    """
    numbers = range(len(shards.counts))
    shards.fetch_ahead(numbers)
    labels = np.concatenate([labels_of_shard(shards, number) for number in numbers])
    if unlabeled := int((labels == NO_LABEL).sum()):
        place = without_secrets(shards.location)
        raise UserError(f"{unlabeled} of {len(labels)} samples of {place} have no label: probes need labeled shards")
    return torch.from_numpy(labels)


def labels_of_shard(shards: Shards, number: int) -> np.ndarray:
    shards.read(number, 0)  # it says what is wrong with a shard, where opening it does not
    return shards.open(number).labels
