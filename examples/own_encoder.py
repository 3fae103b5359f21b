"""Train an encoder of your own, any nn.Module of patch tokens, as an I-JEPA: python examples/own_encoder.py [KEY=VALUE ...]."""

import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn

from jepa_pipeline import keep_tokens, load_config, pretrain

RECIPE = Path(__file__).parents[1] / "configs/debug/ijepa.yaml"


class PostNorm(nn.Module):
    """A transformer of torch's own layers on patches of 4 pixels."""

    image_size, grid = 24, (6, 6)

    def __init__(self, width: int = 32, depth: int = 1) -> None:
        super().__init__()
        self.width = width
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.positions = nn.Parameter(0.02 * torch.randn(36, width))
        self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, batch_first=True) for _ in range(depth)))

    def forward(self, pixels: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Return the tokens of all patches, or those at `keep`, which see no others."""
        tokens = self.embed(pixels).flatten(2).mT + self.positions
        return self.blocks(keep_tokens(tokens, keep))


def main(overrides: list[str]) -> Path:
    """Train, or resume what was interrupted, and return the run folder."""
    return pretrain(load_config(RECIPE, ["name=own_encoder", *overrides]), encoder=partial(PostNorm, width=32, depth=1))


if __name__ == "__main__":
    import own_encoder  # under its own name, so that probes, exports and the processes of several devices can import it too

    own_encoder.main(sys.argv[1:])
