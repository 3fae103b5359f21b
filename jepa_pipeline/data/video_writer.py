"""Frames to compressed video: H.264 in mp4, with the same bytes for the same frames."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from io import BytesIO

import numpy as np
from jaxtyping import UInt8

from jepa_pipeline.data.sample import MAX_VIDEO_PIXELS
from jepa_pipeline.data.video import Video, as_decode_error, import_av, open_video

PRESET = "veryfast"
"""Preset of x264: a third of the time of its default, for files as large."""


def encode_video(frames: Iterable[UInt8[np.ndarray, "H W 3"]], fps: float, *, gop: int = 12, crf: int = 18) -> bytes:
    """Return an mp4 file (H.264, yuv420p) of frames with even sides.

    Args:
        frames: RGB.
        fps: frames per second.
        gop: most frames from one key frame to the next.
        crf: x264's quality, 0 is best.

    Raises:
        ValueError: a side is odd.
    """
    rate = Fraction(fps).limit_denominator(1001)
    return encode(((pixels, index, 1) for index, pixels in enumerate(frames)), rate, 1 / rate, gop, crf)


def reencode_video(data: bytes, *, size: int | None, gop: int, crf: int) -> bytes:
    """Return a video as an mp4 file: upright, without sound, with the same timestamps, its shorter side shrunk to `size`.

    Sides are rounded down to even ones of at least 2.

    Raises:
        DecodeError: one of its frames cannot be decoded.
    """
    video = open_video(data, MAX_VIDEO_PIXELS)
    shorter = min(video.coded_size)
    width, height = (max(2, side * min(size or shorter, shorter) // shorter // 2 * 2) for side in video.coded_size)
    pts = video.pts - video.pts[0]
    durations = np.diff(pts, append=round(video.duration_s / video.time_base))
    frames = zip(iter_resized(video, width, height), pts.tolist(), durations.tolist(), strict=True)
    return encode(frames, Fraction(video.metadata.fps).limit_denominator(1001), video.time_base, gop, crf)


def iter_resized(video: Video, width: int, height: int) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Yield all frames, resized to the given coded size and made upright. A frame is valid until the next."""
    with as_decode_error():
        for frame in video.decode(range(len(video))):
            yield video.to_rgb(frame, width, height)


def encode(
    frames: Iterable[tuple[UInt8[np.ndarray, "H W 3"], int, int]], rate: Fraction, time_base: Fraction, gop: int, crf: int
) -> bytes:
    """Return an mp4 file of frames, each with its timestamp and duration in units of time_base."""
    av = import_av()
    file, reformatter = BytesIO(), av.video.reformatter.VideoReformatter()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        # One thread and no mbtree: otherwise the bytes may differ from run to run.
        options = {"preset": PRESET, "crf": str(crf), "threads": "1", "mbtree": "0"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.pix_fmt, stream.codec_context.gop_size, stream.codec_context.time_base = "yuv420p", gop, time_base
        stream.codec_context.flags |= av.codec.context.Flags.frame_duration
        for pixels, pts, duration in frames:
            if not stream.codec_context.is_open:
                stream.height, stream.width = even_sides(pixels)
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            frame = reformatter.reformat(rgb, format="yuv420p", threads=1)
            frame.pts, frame.duration, frame.time_base = pts, duration, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def even_sides(pixels: UInt8[np.ndarray, "H W 3"]) -> tuple[int, int]:
    height, width = pixels.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"frames have {width}x{height} pixels, but H.264 halves the sides of its colors: give even sides")
    return height, width
