"""Tiny data sets, encoders and methods of a user's own, in a module that other processes can import."""

import torch
from torch import nn
from torch.utils.data import Dataset

from jepa_pipeline import Method, Output, keep_tokens


class Blobs(Dataset):
    """Two classes of noisy 20x20 images, as tensors, arrays, PIL images, pairs or dictionaries."""

    def __init__(self, samples=60, form="pair"):
        self.samples, self.form = samples, form

    def __len__(self):
        return self.samples

    def __getitem__(self, n):
        from PIL import Image

        image = torch.randint(0, 120, (3, 20, 20), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)
        image[:, 6 * (n % 2) : 6 * (n % 2) + 6] += 120
        forms = {
            "tensor": image,
            "array": image.permute(1, 2, 0).numpy(),
            "image": Image.fromarray(image.permute(1, 2, 0).numpy()),
            "pair": (image, n % 2),
            "dictionary": {"image": image, "label": torch.tensor(n % 2)},
        }
        return forms[self.form]


class Tokens(nn.Module):
    image_size, grid = 16, (4, 4)

    def __init__(self, width=12):
        super().__init__()
        self.width = width
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.positions = nn.Parameter(0.02 * torch.randn(16, width))
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, pixels, keep=None):
        tokens = keep_tokens(self.embed(pixels).flatten(2).mT + self.positions, keep)
        return tokens + self.mlp(tokens.mean(1, keepdim=True) + tokens)


class Pooled(nn.Module):
    image_size, width = 16, 8

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, pixels):
        return self.layers(pixels)


class Distance(Method):
    """Collapses; made to be short."""

    def __init__(self, encoder, weight=1.0):
        super().__init__()
        self.encoder, self.embedding_width, self.weight = encoder, encoder.width, weight

    def forward(self, batch, step, seed):
        first, second = (self.encoder.pooled(view) for view in batch.views)
        loss = self.weight * (first - second).square().mean()
        return Output({"distance": loss}, first.detach(), second.detach(), first.detach(), {})
