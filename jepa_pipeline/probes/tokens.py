"""Tokens of frozen encoders for the samples of a data set, computed when needed or cached in memory."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import BFloat16, Int64
from torch import Tensor

from jepa_pipeline.batch import Batch
from jepa_pipeline.console import track
from jepa_pipeline.data.views import normalize
from jepa_pipeline.probes.eval_loader import EvalLoader
from jepa_pipeline.probes.feature_extractors import FeatureExtractor, feature_names
from jepa_pipeline.probes.features import Preprocessing, autocast, batch_labels, compute_device

TokenBatch = tuple[dict[str, BFloat16[Tensor, "B V _ _"]], Int64[Tensor, "B"]]
"""By encoder, the tokens of each view of a sample, those of its segments concatenated; and the labels."""
Shapes = dict[str, torch.Size]


class ComputedTokens:
    """Tokens that are computed in every epoch, for all encoders from one decoding. shapes: of all samples, "S V N D"."""

    def __init__(self, extractors: Mapping[str, FeatureExtractor], loader: EvalLoader, preprocessing: Preprocessing) -> None:
        self.extractors, self.loader, self.preprocessing = extractors, loader, preprocessing
        self.device = compute_device()
        for extractor in extractors.values():
            extractor.encoder.to(self.device).eval()
        first, _ = self.compute([0], loader.dataset.__getitems__([0]))  # pyright: ignore[reportAttributeAccessIssue]
        self.shapes: Shapes = {name: torch.Size((loader.samples, *tokens.shape[1:])) for name, tokens in first.items()}

    def batches(self, numbers: Sequence[list[int]]) -> Iterator[TokenBatch]:
        """Yield the tokens of each batch of samples, on the device."""
        size = self.loader.batch_size
        # a batch of the heads may be larger than the encoders' batches
        parts = [batch[start : start + size] for batch in numbers for start in range(0, len(batch), size)]
        computed = map(self.compute, parts, self.loader.load(parts))
        for batch in numbers:
            results = [next(computed) for _ in range(0, len(batch), size)]
            tokens = {name: torch.cat([part[name] for part, _ in results]) for name in self.shapes}
            yield tokens, torch.cat([labels for _, labels in results])

    @torch.no_grad()
    def compute(self, numbers: list[int], batch: Batch) -> TokenBatch:
        """Return the tokens of one batch."""
        by_name: dict[str, list[Tensor]] = {name: [] for name in feature_names(self.extractors)}
        global_numbers = [self.loader.first + number for number in numbers]
        for index, view in enumerate(batch.views):
            pixels = normalize(view.to(self.device, non_blocking=True), self.preprocessing.mean, self.preprocessing.std)
            for name, extractor in self.extractors.items():
                with autocast(self.device, self.preprocessing.precision):
                    tokens = extractor.last_tokens(name, pixels, global_numbers, index // self.loader.views)
                for part, last in tokens.items():
                    by_name[part].append(last.bfloat16())
        tokens = {name: concat_segments(views, self.loader.views) for name, views in by_name.items()}
        return tokens, batch_labels(batch).to(self.device)


def concat_segments(tokens: list[BFloat16[Tensor, "B _ D"]], views: int) -> BFloat16[Tensor, "B V N D"]:
    """Return the tokens of all segments of each view, from a list in order of segments with `views` of each."""
    return torch.stack(tokens, 1).unflatten(1, (-1, views)).transpose(1, 2).flatten(2, 3)


class CachedTokens:
    """Tokens in CPU memory. shapes: as of ComputedTokens."""

    def __init__(self, tokens: dict[str, BFloat16[Tensor, "S V _ _"]], labels: Int64[Tensor, "S"]) -> None:
        self.tokens, self.labels = tokens, labels
        self.shapes: Shapes = {name: cached.shape for name, cached in tokens.items()}

    def batches(self, numbers: Sequence[list[int]]) -> Iterator[TokenBatch]:
        """Yield the tokens of each batch of samples, on the device."""
        device = compute_device()
        for batch in numbers:
            yield {name: cached[batch].to(device) for name, cached in self.tokens.items()}, self.labels[batch].to(device)


Tokens = ComputedTokens | CachedTokens


def cache_tokens(computed: ComputedTokens, memory_gb: float) -> Tokens:
    """Return the tokens cached in memory, or as they are if they need more than `memory_gb`."""
    if sum(map(math.prod, computed.shapes.values())) * torch.bfloat16.itemsize > memory_gb * 1e9:
        return computed
    cached = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in computed.shapes.items()}
    labels = torch.empty(computed.loader.samples, dtype=torch.long)
    batches = computed.loader.batches()
    for numbers, (tokens, found) in zip(track(batches, "training tokens", len(batches)), computed.batches(batches), strict=True):
        labels[numbers] = found.cpu()
        for name, values in tokens.items():
            cached[name][numbers] = values.cpu()
    return CachedTokens(cached, labels)
