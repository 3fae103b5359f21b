"""Pretrain on a data set of your own, any map-style torch Dataset of images: python examples/own_dataset.py [KEY=VALUE ...]."""

import sys
from pathlib import Path

import torch
from torch.utils.data import Dataset

from jepa_pipeline import load_config, pretrain

RECIPE = Path(__file__).parents[1] / "configs/debug/ijepa.yaml"


class Stripes(Dataset):
    """Noisy stripes, upright or lying."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, n: int) -> tuple[torch.Tensor, int]:  # a function of n alone, so that a resumed run sees the same
        noise = torch.randint(0, 200, (3, 32, 32), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)
        noise[:, :, n % 7 :: 7] = 255
        return (noise, 0) if n % 2 else (noise.transpose(1, 2), 1)


def main(overrides: list[str]) -> Path:
    """Train, or resume what was interrupted, and return the run folder."""
    return pretrain(load_config(RECIPE, ["name=own_dataset", *overrides]), data=Stripes(500))


if __name__ == "__main__":
    import own_dataset  # under its own name, so that the processes of several devices can import it too

    own_dataset.main(sys.argv[1:])
