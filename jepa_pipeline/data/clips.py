"""Videos to views of them: clips of frames, all cropped and resized alike."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from PIL import Image
from torch import Tensor

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.views import ViewsConfig
from jepa_pipeline.data.decode import DecodeError
from jepa_pipeline.data.video import Video
from jepa_pipeline.data.views import Box, corner_box, random_crop, resized

Times = Float64[np.ndarray, " N"]
Numbers = Int64[np.ndarray, " T"]

ROUNDING_S = 1e-6
"""Times are sums of fractions: a frame that is shown from this much later on is meant to be shown already."""


class TooShort(DecodeError):
    """A video that is whole, but shorter than a clip where such are to be skipped. cure: what the user can do about it."""

    cure = "set views.clip.short to loop, or views.clip to a shorter span"


class Span(NamedTuple):
    """Of a clip in a video: how long the video is, the steps between the clip's frames, and the room in which it may start,
    which ends where it no longer fits, and is not above 0 if it never does. In frames with a stride, in seconds with fps.
    """

    length: float
    step: float
    room: float
    unit: float


def clip_numbers(times: Times, duration_s: float, frames: int, config: ClipConfig, generator: np.random.Generator) -> Numbers:
    """The numbers of the frames of one clip, out of a video whose frames are shown from these times on, in seconds.

    With a stride, every stride-th frame; with fps, at each time the frame that is shown then. The start is uniform over all
    that fit, or the middle one; a video that is too short begins again at its end. It always draws one number.

    Raises:
        TooShort: the video is shorter than a clip, and such are to be skipped.
    """
    span = span_of(times, duration_s, frames, config)
    if span.room <= 0 and config.short == "skip":
        raise TooShort(too_short(span, frames, config))
    share = generator.random()
    start = share * max(0.0, span.room) if config.start == "random" else fixed_start(span, 0.5)
    return numbers_from(start, span, times, frames, config)


def segment_numbers(times: Times, duration_s: float, frames: int, config: ClipConfig, segments: int) -> Int64[np.ndarray, "S T"]:
    """The numbers of the frames of evenly spaced clips, of which the first begins and the last ends with the video; one lies
    in the middle. Videos that are too short begin again at their end.
    """
    span = span_of(times, duration_s, frames, config)
    shares = np.linspace(0, 1, segments) if segments > 1 else np.array([0.5])
    return np.stack([numbers_from(fixed_start(span, share), span, times, frames, config) for share in shares.tolist()])


def span_of(times: Times, duration_s: float, frames: int, config: ClipConfig) -> Span:
    if config.fps is not None:
        return Span(duration_s, 1 / config.fps, duration_s - (frames - 1) / config.fps, 1 / config.fps)
    stride = config.stride or 1
    return Span(len(times), stride, len(times) - (frames - 1) * stride, 1)


def too_short(span: Span, frames: int, config: ClipConfig) -> str:
    if config.fps is not None:
        needed = f"a clip of {frames} frames at {config.fps:g} a second needs more than {(frames - 1) * span.step:.2f} s"
        return f"it lasts {span.length:.2f} s, and {needed}"
    has = "1 frame" if span.length == 1 else f"{span.length} frames"
    return f"it has {has}, and a clip of {frames} with stride {span.step} spans {(frames - 1) * span.step + 1}"


def fixed_start(span: Span, share: float) -> float:
    """Share 0: with the video's first frame; 1: so that the clip ends with the video."""
    return share * max(0.0, span.room - span.unit)


def numbers_from(start: float, span: Span, times: Times, frames: int, config: ClipConfig) -> Numbers:
    places = (start if config.fps is not None else int(start)) + np.arange(frames) * span.step
    if config.fps is not None:
        places = places + ROUNDING_S
    if span.room <= 0:
        places = places % span.length
    return np.searchsorted(times, places, side="right") - 1 if config.fps is not None else places.astype(np.int64)


class ClipViews:
    """The views of a micro-batch, cut from one video after the other, as uint8. An image is a clip that stands still."""

    def __init__(self, config: ViewsConfig, image_size: int, frames: int, count: int) -> None:
        self.added, self.frames, self.clip = 0, frames, config.clip
        self.views = [
            (kind, np.empty((count, 3, frames, size, size), np.uint8))
            for kind, size in zip(config.kinds, config.sizes(image_size), strict=True)
        ]

    def add(self, picture: Image.Image | Video, generators: Sequence[np.random.Generator]) -> None:
        """The next video, with a generator for each view. A frame that several views show is decoded once, and held no longer
        than it takes to cut it.

        Raises:
            DecodeError: it is damaged; the next one takes its place.
            TooShort: likewise.
        """
        numbers = np.stack([self.choose(picture, generator) for generator in generators])
        crops: list[tuple[Box, bool]] = []
        for number, image in shown(picture, numbers):
            if not crops:
                drawn = zip(self.views, generators, strict=True)
                crops = [random_crop(image.size, kind, generator) for (kind, _), generator in drawn]
            for (_, clips), which, (box, flipped) in zip(self.views, numbers, crops, strict=True):
                cut(image, which == number, box, clips[self.added], flipped)
        self.added += 1

    def choose(self, picture: Image.Image | Video, generator: np.random.Generator) -> Numbers:
        """The frames of one clip; of an image always the one there is, for that is no video cut short."""
        if isinstance(picture, Image.Image):
            return np.zeros(self.frames, np.int64)
        return clip_numbers(picture.times, picture.duration_s, self.frames, self.clip, generator)

    def finish(self) -> tuple[list[UInt8[Tensor, "B C T _ _"]], None]:
        """The views."""
        return [torch.from_numpy(clips) for _, clips in self.views], None


def shown(picture: Image.Image | Video, numbers: Int64[np.ndarray, "S T"]) -> Iterator[tuple[int, Image.Image]]:
    """The distinct frames that clips show, one at a time, each with its number; an image is frame 0. Raises as Video.each does."""
    if isinstance(picture, Image.Image):
        yield 0, picture
    else:
        yield from ((number, Image.fromarray(frame)) for number, frame in picture.each(np.unique(numbers)))


def cut(
    image: Image.Image, places: Bool[np.ndarray, "*S T"], box: Box, clip: UInt8[np.ndarray, "*S C T H W"], flipped: bool = False
) -> None:
    """Put an image, cropped and resized, wherever it is shown in a clip, or in several."""
    if places.any():
        view = resized(image, box, clip.shape[-1])
        clip.swapaxes(-4, -3)[places] = view[:, :, ::-1] if flipped else view


def eval_clips(
    picture: Image.Image | Video, frames: int, config: ClipConfig, segments: int, views: int, image_size: int
) -> UInt8[np.ndarray, "S V C T H W"]:
    """The clips of evaluation: evenly spaced in time, and of each as many squares of the whole shorter side, evenly spaced along
    the longer one; a single one is in the middle. Nothing is random.

    Raises:
        DecodeError: the video is damaged.
    """
    if isinstance(picture, Video):
        numbers = segment_numbers(picture.times, picture.duration_s, frames, config, segments)
    else:
        numbers = np.zeros((segments, frames), np.int64)
    clips = np.empty((segments, views, 3, frames, image_size, image_size), np.uint8)
    for number, image in shown(picture, numbers):
        for view, box in enumerate(square_boxes(image.size, views)):
            cut(image, numbers == number, box, clips[:, view])
    return clips


def square_boxes(size: tuple[int, int], count: int) -> list[Box]:
    width, height = size
    side = min(size)
    shares = np.linspace(0, 1, count).tolist() if count > 1 else [0.5]
    return [corner_box(int(share * (width - side)), int(share * (height - side)), side, side) for share in shares]
