"""Train by a method of your own, alignment and uniformity (Wang and Isola 2020): python examples/own_method.py [KEY=VALUE ...]."""

import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn

from jepa_pipeline import BaseEncoder, Batch, Method, Output, gather, load_config, pretrain

RECIPE = Path(__file__).parents[1] / "configs/debug/simclr.yaml"


class Uniformity(Method):
    """Two views of an image close to each other on the sphere, different images far apart."""

    def __init__(self, encoder: BaseEncoder, weight: float = 1.0) -> None:
        super().__init__()
        self.encoder, self.weight, self.embedding_width = encoder, weight, 16
        self.head = nn.Linear(encoder.width, self.embedding_width)

    def forward(self, batch: Batch, step: int, seed: int) -> Output:
        """Return both terms; the loss sees the embeddings of all ranks."""
        features = [self.encoder.pooled(view) for view in batch.views]
        first, second = embeddings = nn.functional.normalize(self.head(torch.stack(features)), dim=-1)
        one, two = gather(embeddings, dim=1)
        spread = torch.cat([torch.pdist(one), torch.pdist(two)]).square().mul(-2).exp().mean().log()
        losses = {"alignment": (one - two).square().sum(-1).mean(), "uniformity": self.weight * spread}
        return Output(losses, features[0].detach(), second.detach(), first.detach(), metrics={})


def main(overrides: list[str]) -> Path:
    """Train, or resume what was interrupted, and return the run folder."""
    return pretrain(load_config(RECIPE, ["name=own_method", *overrides]), method=partial(Uniformity, weight=0.5))


if __name__ == "__main__":
    import own_method  # under its own name, so that probes, exports and the processes of several devices can import it too

    own_method.main(sys.argv[1:])
