"""The form in which images are decoded: channels, and bits of each."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

MAX_CHANNELS = 16
RGB_CHANNELS = 3
Bits = Literal[8, 16]
InChannels = Annotated[
    int,
    Field(
        ge=1,
        le=MAX_CHANNELS,
        description="Channels of the pixels. A run sets it to data.channels, so that a recipe need not give it.",
    ),
]
PerChannel = Annotated[tuple[float, ...], Field(min_length=1, max_length=MAX_CHANNELS)]
"""One value for each channel of the pixels."""
Deviations = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1, max_length=MAX_CHANNELS)]
"""A divisor for each channel of the pixels."""


class PixelFormat(NamedTuple):
    """The channels of decoded images, and the bits of each: values are whole numbers that stand for 0..1."""

    channels: int = RGB_CHANNELS
    bits: Bits = 8

    @property
    def largest(self) -> int:
        """Return the value that stands for 1."""
        return (1 << self.bits) - 1

    @property
    def dtype(self) -> str:
        """Return numpy's name of the type of its values."""
        return f"uint{self.bits}"

    def name_channels(self) -> str:
        """Return the number of channels, such as "1 channel"."""
        return f"{self.channels} channel{'s' if self.channels > 1 else ''}"

    def __str__(self) -> str:
        return f"{self.name_channels()} of {self.bits} bits"


RGB8 = PixelFormat()
"""The form of photos and videos. Gray, palettes and transparency become RGB, and 16 bits become 8."""


def name_channels(in_channels: int) -> str:
    """Return the number of channels as the end of a description of the input; nothing for RGB."""
    return "" if in_channels == RGB_CHANNELS else f", {in_channels} channel{'s' if in_channels > 1 else ''}"
