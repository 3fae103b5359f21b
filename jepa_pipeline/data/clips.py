"""Videos to clips: which frames a clip shows, and the same crop of each of them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from PIL import Image
from torch import Tensor

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.crop import Resampling
from jepa_pipeline.config.views import ViewsConfig
from jepa_pipeline.data.resample import DEFAULT_RESAMPLING, Box, resized_crop, square_views
from jepa_pipeline.data.sample import DecodeError
from jepa_pipeline.data.video import Video
from jepa_pipeline.data.views import sample_crop

Times = Float64[np.ndarray, " N"]
FrameIndices = Int64[np.ndarray, " T"]

ROUNDING_S = 1e-6
"""Added to times, which are sums of fractions, so that a frame that starts then counts as shown."""


class TooShort(DecodeError):
    """A video that is intact but shorter than a clip, where such videos are to be skipped."""

    cure = "set views.clip.short to loop or hold, or views.clip to a shorter span"


class Span(NamedTuple):
    """The fit of a clip in a video: in frames with a stride, in seconds with fps.

    Args:
        length: length of the video.
        step: from one frame of the clip to the next; with spacing: window on average.
        slack: range of starts at which the clip fits, excluded at its end; 0 or less if it never fits.
        unit: one frame, or the time of one.
        last: from the last frame to the end.
    """

    length: float
    step: float
    slack: float
    unit: float
    last: float


def clip_frame_indices(
    times: Times, duration_s: float, frames: int, config: ClipConfig, generator: np.random.Generator
) -> FrameIndices:
    """Return the indices of a clip's frames, at a random or the center start.

    With a stride, every stride-th frame; with fps, the frame that is shown at each time. Exactly one number is sampled, so that
    settings do not change later random numbers.

    Args:
        times: start of each frame of the video, in seconds.
        duration_s: length of the video.
        frames: frames of the clip.
        config: stride or fps, start, and what to do with short videos.
        generator: draws the start.

    Raises:
        TooShort: the video is shorter than a clip, and such are to be skipped.
    """
    span = clip_span(times, duration_s, frames, config)
    if span.slack <= 0 and config.short == "skip":
        raise TooShort(describe_shortage(span, frames, config))
    share = generator.random()
    start = share * max(0.0, span.slack) if config.start == "random" else fixed_start(span, 0.5)
    return frames_from(start, span, times, frames, config)


def segment_frame_indices(
    times: Times, duration_s: float, frames: int, config: ClipConfig, segments: int
) -> Int64[np.ndarray, "S T"]:
    """Return the frame indices of evenly spaced clips, from the start to the end of the video; one clip is centered.

    Videos that are too short are looped, or their last frame is repeated where training did that.
    """
    span = clip_span(times, duration_s, frames, config)
    shares = np.linspace(0, 1, segments) if segments > 1 else np.array([0.5])
    return np.stack([frames_from(fixed_start(span, share), span, times, frames, config) for share in shares.tolist()])


def clip_span(times: Times, duration_s: float, frames: int, config: ClipConfig) -> Span:
    window = config.spacing == "window"
    if config.fps is not None:
        if window:
            return Span(duration_s, 1 / config.fps, duration_s - frames / config.fps + ROUNDING_S, 0.0, 2 * ROUNDING_S)
        return Span(duration_s, 1 / config.fps, duration_s - (frames - 1) / config.fps, 1 / config.fps, 2 * ROUNDING_S)
    stride = config.stride or 1
    return Span(len(times), stride, len(times) - (frames * stride - 1 if window else (frames - 1) * stride), 1, 1)


def describe_shortage(span: Span, frames: int, config: ClipConfig) -> str:
    window = config.spacing == "window"
    if config.fps is not None:
        least = f"{frames * span.step:.2f} s" if window else f"more than {(frames - 1) * span.step:.2f} s"
        return f"it lasts {span.length:.2f} s, but a clip of {frames} frames at {config.fps:g} fps needs {least}"
    has = "1 frame" if span.length == 1 else f"{span.length} frames"
    spans = frames * span.step if window else (frames - 1) * span.step + 1
    return f"it has {has}, but a clip of {frames} with stride {span.step} spans {spans}"


def fixed_start(span: Span, share: float) -> float:
    """Return the start of a clip: share 0 starts with the video, share 1 ends with it."""
    return share * max(0.0, span.slack - span.unit)


def frames_from(start: float, span: Span, times: Times, frames: int, config: ClipConfig) -> FrameIndices:
    offsets = clip_offsets(span, frames, config)
    points = int(start) + offsets if config.fps is None else start + offsets + ROUNDING_S
    if span.slack <= 0:
        points = np.minimum(points, span.length - span.last) if config.short == "hold" else points % span.length
    return points.astype(np.int64) if config.fps is None else np.searchsorted(times, points, side="right") - 1


def clip_offsets(span: Span, frames: int, config: ClipConfig) -> Float64[np.ndarray, " T"] | FrameIndices:
    """Return the distance of each frame of a clip from its start."""
    if config.spacing == "exact":
        return np.arange(frames) * span.step
    # The window of a video that is too short, and held, is the whole video, with a frame for each of its steps.
    held = span.slack <= 0 and config.short == "hold"
    window = span.length if held else frames * span.step
    count = int(window / span.step + ROUNDING_S) if held else frames
    offsets = np.concatenate([np.linspace(0, window, count), np.full(frames - count, window)])
    return np.minimum(offsets, window - span.last)  # the end is the window's last frame


class ClipViews:
    """The views of a batch of clips as uint8, built from one video after the other. An image is repeated to make a clip."""

    def __init__(self, config: ViewsConfig, image_size: int, frames: int, batch_size: int) -> None:
        self.added, self.frames, self.clip, self.resampling = 0, frames, config.clip, config.resampling
        self.views = [
            (kind, np.empty((batch_size, 3, frames, size, size), np.uint8))
            for kind, size in zip(config.kinds, config.sizes(image_size), strict=True)
        ]

    def add(self, media: Image.Image | Video, generators: Sequence[np.random.Generator]) -> None:
        """Add the views of the next video, with one generator per view.

        A frame that several views show is decoded once, and kept only until it is cropped.

        Raises:
            DecodeError: the video is damaged or, as TooShort, too short; the next call replaces it.
        """
        indices = np.stack([self.choose_frames(media, generator) for generator in generators])
        crops: list[tuple[Box, bool]] = []
        for index, image in iterate_frames(media, indices):
            if not crops:  # the size of the frames is known only now
                pairs = zip(self.views, generators, strict=True)
                crops = [sample_crop(image.size, kind, generator) for (kind, _), generator in pairs]
            for (_, clips), chosen, (box, flipped) in zip(self.views, indices, crops, strict=True):
                paste_crop(image, chosen == index, box, clips[self.added], flipped, self.resampling)
        self.added += 1

    def choose_frames(self, media: Image.Image | Video, generator: np.random.Generator) -> FrameIndices:
        if isinstance(media, Image.Image):
            return np.zeros(self.frames, np.int64)
        return clip_frame_indices(media.times, media.duration_s, self.frames, self.clip, generator)

    def finish(self) -> tuple[list[UInt8[Tensor, "B C T _ _"]], None]:
        """Return the views, and no deferred crops."""
        return [torch.from_numpy(clips) for _, clips in self.views], None


def iterate_frames(media: Image.Image | Video, indices: Int64[np.ndarray, "S T"]) -> Iterator[tuple[int, Image.Image]]:
    """Yield the index and image of each distinct frame of the clips; an image is frame 0. Raises as Video.each does."""
    if isinstance(media, Image.Image):
        yield 0, media
    else:
        yield from ((index, Image.fromarray(frame)) for index, frame in media.iter_frames(np.unique(indices)))


def paste_crop(
    image: Image.Image,
    shown: Bool[np.ndarray, "*S T"],
    box: Box,
    clip: UInt8[np.ndarray, "*S C T H W"],
    flipped: bool = False,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> None:
    """Crop and resize an image, and paste it into every frame of one or several clips that shows it."""
    if shown.any():
        view = resized_crop(image, box, clip.shape[-1], resampling)
        paste(view[:, :, ::-1] if flipped else view, shown, clip)


def paste(view: UInt8[np.ndarray, "C H W"], shown: Bool[np.ndarray, "*S T"], clip: UInt8[np.ndarray, "*S C T H W"]) -> None:
    """Paste a view into every frame of one or several clips that shows it."""
    clip.swapaxes(-4, -3)[shown] = view


def extract_eval_clips(
    media: Image.Image | Video, frames: int, config: ClipConfig, segments: int, views: int, image_size: int
) -> UInt8[np.ndarray, "S V C T H W"]:
    """Return the clips of evaluation, evenly spaced in time and space, without randomness.

    Each segment in time is shown in `views` squares; see square_views.

    Raises:
        DecodeError: the video is damaged.
    """
    if isinstance(media, Video):
        indices = segment_frame_indices(media.times, media.duration_s, frames, config, segments)
    else:
        indices = np.zeros((segments, frames), np.int64)
    clips = np.empty((segments, views, 3, frames, image_size, image_size), np.uint8)
    for index, image in iterate_frames(media, indices):
        for view, pixels in enumerate(square_views(image, image_size, views)):
            paste(pixels, indices == index, clips[:, view])
    return clips
