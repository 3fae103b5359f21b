"""The frozen tokens of a data set's samples, for heads that are trained on all of them."""

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import BFloat16, Int64
from rich.progress import track
from torch import Tensor

from jepa_pipeline.batch import Batch
from jepa_pipeline.data.views import normalize
from jepa_pipeline.probes.features import Lens, autocast, compute_device, labels_of
from jepa_pipeline.probes.feed import Feed
from jepa_pipeline.probes.readers import Reader

Labelled = tuple[BFloat16[Tensor, "B V N D"], Int64[Tensor, "B"]]
"""Of each of a sample's views the tokens of all its segments, one after the other; and the labels."""


class FreshTokens:
    """Tokens that are computed whenever they are asked for. shape: of them all, "S V N D"."""

    def __init__(self, reader: Reader, feed: Feed, lens: Lens) -> None:
        self.reader, self.feed, self.lens = reader, feed, lens
        self.device = compute_device()
        reader.encoder.to(self.device).eval()
        one, _ = self.compute([0], feed.dataset.__getitems__([0]))  # pyright: ignore[reportAttributeAccessIssue]
        self.shape = one.expand(feed.samples, -1, -1, -1).shape

    def batches(self, numbers: Sequence[list[int]]) -> Iterator[Labelled]:
        """Those of the samples of each batch, on the device."""
        rows = self.feed.samples_per_pass
        passes = [batch[start : start + rows] for batch in numbers for start in range(0, len(batch), rows)]
        computed = map(self.compute, passes, self.feed.load(passes))
        for batch in numbers:
            parts = [next(computed) for _ in range(-(-len(batch) // rows))]
            tokens, labels = zip(*parts, strict=True)
            yield torch.cat(tokens), torch.cat(labels)

    @torch.no_grad()
    def compute(self, numbers: list[int], batch: Batch) -> Labelled:
        views = []
        for place, view in enumerate(batch.views):
            pixels = normalize(view.to(self.device, non_blocking=True), self.lens.mean, self.lens.std)
            with autocast(self.device, self.lens.precision):
                _, blocks = self.reader.pooled_and_intermediates(pixels, numbers, place // self.feed.views, last=1)
            views.append(blocks[-1].bfloat16())
        segments = torch.stack(views, 1).unflatten(1, (-1, self.feed.views))
        return segments.transpose(1, 2).flatten(2, 3), labels_of(batch).to(self.device)


class KeptTokens:
    """Tokens in main memory. shape: of them all."""

    def __init__(self, tokens: BFloat16[Tensor, "S V N D"], labels: Int64[Tensor, "S"]) -> None:
        self.tokens, self.labels = tokens, labels
        self.shape = tokens.shape

    def batches(self, numbers: Sequence[list[int]]) -> Iterator[Labelled]:
        """Those of the samples of each batch, on the device."""
        device = compute_device()
        for batch in numbers:
            yield self.tokens[batch].to(device), self.labels[batch].to(device)


Tokens = FreshTokens | KeptTokens


def kept_if_small(fresh: FreshTokens, memory_gb: float, title: str) -> Tokens:
    """The tokens in memory, or as they were where they need more."""
    if math.prod(fresh.shape) * torch.bfloat16.itemsize > memory_gb * 1e9:
        return fresh
    tokens, labels = torch.empty(fresh.shape, dtype=torch.bfloat16), torch.empty(fresh.shape[0], dtype=torch.long)
    passes = fresh.feed.passes()
    for numbers, computed in zip(track(passes, title), fresh.batches(passes), strict=True):
        tokens[numbers], labels[numbers] = (part.cpu() for part in computed)
    return KeptTokens(tokens, labels)
