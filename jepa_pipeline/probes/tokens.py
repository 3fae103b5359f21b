"""The tokens that frozen encoders give for a data set's samples, for heads that are trained on all of them."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import BFloat16, Int64
from rich.progress import track
from torch import Tensor

from jepa_pipeline.batch import Batch
from jepa_pipeline.data.views import normalize
from jepa_pipeline.probes.eval_loader import Feed
from jepa_pipeline.probes.feature_extractors import Reader, names_of
from jepa_pipeline.probes.features import Lens, autocast, compute_device, labels_of

Labeled = tuple[dict[str, BFloat16[Tensor, "B V _ _"]], Int64[Tensor, "B"]]
"""By encoder, of each of a sample's views the tokens of all its segments, one after the other; and the labels."""
Shapes = dict[str, torch.Size]


class FreshTokens:
    """Tokens that are computed whenever they are asked for, of all encoders from one decoding. shapes: of all, "S V N D"."""

    def __init__(self, readers: Mapping[str, Reader], feed: Feed, lens: Lens) -> None:
        self.readers, self.feed, self.lens = readers, feed, lens
        self.device = compute_device()
        for reader in readers.values():
            reader.encoder.to(self.device).eval()
        first, _ = self.compute([0], feed.dataset.__getitems__([0]))  # pyright: ignore[reportAttributeAccessIssue]
        self.shapes: Shapes = {name: torch.Size((feed.samples, *tokens.shape[1:])) for name, tokens in first.items()}

    def batches(self, numbers: Sequence[list[int]]) -> Iterator[Labeled]:
        """Those of the samples of each batch, on the device."""
        rows = self.feed.samples_per_pass
        passes = [batch[start : start + rows] for batch in numbers for start in range(0, len(batch), rows)]
        computed = map(self.compute, passes, self.feed.load(passes))
        for batch in numbers:
            parts = [next(computed) for _ in range(0, len(batch), rows)]
            tokens = {name: torch.cat([part[name] for part, _ in parts]) for name in self.shapes}
            yield tokens, torch.cat([labels for _, labels in parts])

    @torch.no_grad()
    def compute(self, numbers: list[int], batch: Batch) -> Labeled:
        found: dict[str, list[Tensor]] = {name: [] for name in names_of(self.readers)}
        ours = [self.feed.first + number for number in numbers]
        for place, view in enumerate(batch.views):
            pixels = normalize(view.to(self.device, non_blocking=True), self.lens.mean, self.lens.std)
            for name, reader in self.readers.items():
                with autocast(self.device, self.lens.precision):
                    read = reader.tokens(name, pixels, ours, place // self.feed.views)
                for part, last in read.items():
                    found[part].append(last.bfloat16())
        tokens = {name: by_view(views, self.feed.views) for name, views in found.items()}
        return tokens, labels_of(batch).to(self.device)


def by_view(tokens: list[BFloat16[Tensor, "B _ D"]], views: int) -> BFloat16[Tensor, "B V N D"]:
    """Of each view the tokens of all segments, from a list in order of segments with all views of each."""
    return torch.stack(tokens, 1).unflatten(1, (-1, views)).transpose(1, 2).flatten(2, 3)


class KeptTokens:
    """Tokens in main memory. shapes: of all."""

    def __init__(self, tokens: dict[str, BFloat16[Tensor, "S V _ _"]], labels: Int64[Tensor, "S"]) -> None:
        self.tokens, self.labels = tokens, labels
        self.shapes: Shapes = {name: kept.shape for name, kept in tokens.items()}

    def batches(self, numbers: Sequence[list[int]]) -> Iterator[Labeled]:
        """Those of the samples of each batch, on the device."""
        device = compute_device()
        for batch in numbers:
            yield {name: kept[batch].to(device) for name, kept in self.tokens.items()}, self.labels[batch].to(device)


Tokens = FreshTokens | KeptTokens


def kept_if_small(fresh: FreshTokens, memory_gb: float) -> Tokens:
    """The tokens in memory, or as they were where they need more."""
    if sum(map(math.prod, fresh.shapes.values())) * torch.bfloat16.itemsize > memory_gb * 1e9:
        return fresh
    kept = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in fresh.shapes.items()}
    labels = torch.empty(fresh.feed.samples, dtype=torch.long)
    passes = fresh.feed.passes()
    for numbers, (tokens, right) in zip(track(passes, "training tokens"), fresh.batches(passes), strict=True):
        labels[numbers] = right.cpu()
        for name, computed in tokens.items():
            kept[name][numbers] = computed.cpu()
    return KeptTokens(kept, labels)
