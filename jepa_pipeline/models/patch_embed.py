"""Patch embeddings: the layers that turn images, clips or the tokens of a level below into tokens."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

import jepa_pipeline._torchvision  # noqa: F401  # before timm
from timm.layers import PatchEmbed


class ImagePatchEmbed(PatchEmbed):
    """timm's patch embedding of images, which takes an image as a clip of one frame."""

    def forward(self, clip: Float[Tensor, "B C 1 H W"]) -> Float[Tensor, "B N D"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the tokens in row-major order."""
        return super().forward(clip.squeeze(2))


class TubeletEmbed(nn.Module):
    """A linear map of each tubelet, a box of frames, rows and columns (Arnab et al. 2021).

    Args:
        tubelet: frames, height and width of a tubelet.
        channels: channels of the clip.
        dim: width of a token.
    """

    def __init__(self, tubelet: tuple[int, int, int], channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels, dim, kernel_size=tubelet, stride=tubelet)

    def forward(self, clip: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B N D"]:
        """Return the tokens in row-major order: time, then rows, then columns."""
        return self.proj(clip).flatten(2).transpose(1, 2)


class PooledEmbed(nn.Module):
    """A linear map of the mean over each tubelet; arguments as in TubeletEmbed."""

    def __init__(self, tubelet: tuple[int, int, int], channels: int, dim: int) -> None:
        super().__init__()
        self.tubelet = tubelet
        self.proj = nn.Linear(channels, dim)

    def forward(self, clip: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B N D"]:
        """Return the tokens in row-major order: time, then rows, then columns."""
        return self.proj(F.avg_pool3d(clip, self.tubelet).flatten(2).transpose(1, 2))
