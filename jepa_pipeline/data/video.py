"""Compressed bytes to frames of a video, any of them, without decoding more than it takes."""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from PIL import Image
from pydantic import Field

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.section import Section
from jepa_pipeline.data.containers import FORMATS, UNTRUSTED, Turn, check_whole, is_hidden, key_places, turn_of
from jepa_pipeline.data.decode import DecodeError

if TYPE_CHECKING:
    import av

SKIPPING = "h264"
"""The codec whose frames say whether others need them; those of HEVC may be needed all the same."""

PRESET = "veryfast"
"""Of x264: a third of the time of its default, for files as large."""


class VideoFacts(Section):
    """What is known of a video without decoding it."""

    duration_s: float = Field(description="From the start of the first frame to the end of the last, in seconds.")
    fps: float = Field(description="Mean rate, in frames a second.")
    width: int = Field(description="Of a frame that is upright, in pixels.")
    height: int = Field(description="Of a frame that is upright, in pixels.")
    frames: int = Field(description="Number of frames.")


class Video:
    """A video in memory, whose frames are decoded when asked for; not by several threads at once.

    times: seconds from the first frame to each, ascending, whatever the rate does; duration_s: to the end of the last one, which
    is taken to last as long as the others on average: what files say of it is not to be relied upon. Frames are numbered in the
    order in which they are shown.
    """

    def __init__(self, packets: "list[av.Packet[Any]]", context: "av.VideoCodecContext", rate: Fraction, container: str) -> None:
        from av.video.reformatter import VideoReformatter

        self._packets, self._context = packets, context
        self.coded_size = context.width, context.height
        self._reformatter = VideoReformatter()
        self._turn: Turn | None = None
        shown = [packet for packet in packets if not packet.is_discard and not is_hidden(packet, context.name)]
        if not shown:
            raise DecodeError("its video stream is empty")
        stamps = {packet.pts for packet in shown if packet.pts is not None}
        self._counted = len(stamps) < len(shown) or (container == "avi" and context.has_b_frames)
        self.time_base = 1 / rate if self._counted else packets[0].time_base
        self.stamps: Int64[np.ndarray, " N"] = np.arange(len(shown)) if self._counted else np.array(sorted(stamps))
        self.times: Float64[np.ndarray, " N"] = (self.stamps - self.stamps[0]) * float(self.time_base)
        self.duration_s = float(self.times[-1] / (len(shown) - 1) * len(shown) if len(shown) > 1 else 1 / rate)
        self._keys = [0] if self._counted or container in UNTRUSTED else key_places(packets)
        self._firsts = [packets[key].pts or 0 for key in self._keys]

    def __len__(self) -> int:
        return len(self.times)

    @property
    def width(self) -> int:
        """Of a frame that is upright, in pixels."""
        return self._first.shape[1]

    @property
    def height(self) -> int:
        """Of a frame that is upright, in pixels."""
        return self._first.shape[0]

    @cached_property
    def facts(self) -> VideoFacts:
        fps = len(self) / self.duration_s
        return VideoFacts(duration_s=self.duration_s, fps=fps, width=self.width, height=self.height, frames=len(self))

    @cached_property
    def _first(self) -> UInt8[np.ndarray, "H W 3"]:
        return self.frames(np.zeros(1, np.int64))[0]

    def frames(self, numbers: Int64[np.ndarray, " T"]) -> UInt8[np.ndarray, "T H W 3"]:
        """Frames by number, in any order, RGB and upright; pixels that are not square stay so. Each is decoded and converted once.

        Raises:
            DecodeError: one of them cannot be decoded.
            IndexError: there is no frame of that number.
        """
        wanted, places = np.unique(numbers, return_inverse=True)
        rows = {number: row for row, number in enumerate(wanted.tolist())}
        pixels = np.empty(0, np.uint8)
        for number, picture in self.each(wanted):
            if not pixels.size:
                pixels = np.empty((len(wanted), *picture.shape), np.uint8)
            pixels[rows[number]] = picture
        return pixels if len(wanted) == len(numbers) and (np.diff(places) > 0).all() else pixels[places]

    def each(self, wanted: Int64[np.ndarray, " T"]) -> "Iterator[tuple[int, UInt8[np.ndarray, 'H W 3']]]":
        """Frames by ascending numbers with these, one after the other, as `frames` has them; each lives until the next one.

        Of a file that is found to lie all come a second time, and only those count. Raises as `frames` does.
        """
        if wanted[0] < 0 or wanted[-1] >= len(self):
            raise IndexError(f"there are frames 0 to {len(self) - 1}, not {wanted[0]} to {wanted[-1]}")
        try:
            yield from self._converted(wanted.tolist(), quick=True)
        except DecodeError:  # a key flag may have lied: from the first frame on everything can be decoded, or nothing can
            if len(self._keys) == 1:
                raise
            yield from self._converted(wanted.tolist(), quick=False)

    def _converted(self, wanted: list[int], quick: bool) -> "Iterator[tuple[int, UInt8[np.ndarray, 'H W 3']]]":
        with as_decode_error():
            for number, frame in zip(wanted, self.decoded(wanted, quick), strict=True):
                yield number, self.picture(frame, *self.coded_size)

    def upright(self, size: tuple[int, int]) -> "Iterator[UInt8[np.ndarray, 'H W 3']]":
        """All frames one after the other, upright, resized to a width and height; each lives until the next one."""
        with as_decode_error():
            for frame in self.decoded(range(len(self))):
                yield self.picture(frame, *size)

    def picture(self, frame: "av.VideoFrame", width: int, height: int) -> UInt8[np.ndarray, "_ _ 3"]:
        """A decoded frame as RGB, resized to width and height, then turned upright. It lives until the next one is made."""
        if self._turn is None:
            self._turn = turn_of(frame)
        rgb = self._reformatter.reformat(frame, width, height, "rgb24", threads=1)
        plane = rgb.planes[0]
        pixels = (
            np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)[:, : width * 3].reshape(height, width, 3)
        )
        return (pixels.transpose(1, 0, 2) if self._turn.sideways else pixels)[:: self._turn.down, :: self._turn.right]

    def decoded(self, wanted: Sequence[int], quick: bool = False) -> "Iterator[av.VideoFrame]":
        """Frames by ascending numbers, as FFmpeg has them. quick: whether to begin at key frames, and to leave out frames that
        no other needs, which is right unless the file lies.

        Raises:
            DecodeError: one of them does not come.
        """
        firsts = self._firsts if quick else self._firsts[:1]
        stamps = deque(self.stamps[list(wanted)].tolist())
        wanted_stamps, place, count, start = set(stamps), -1, 0, 0
        skips = quick and self._context.name == SKIPPING and not self._counted
        self._context.skip_frame = "DEFAULT"
        while stamps:
            key = max(0, bisect_right(firsts, stamps[0]) - 1)
            if place < 0 or self._keys[key] > place:
                self._context.flush_buffers()
                place, count, start = self._keys[key], 0, key
            if place > len(self._packets):
                raise DecodeError(f"the frame at {float((stamps[0] - self.stamps[0]) * self.time_base):.2f} s cannot be decoded")
            packet = self._packets[place] if place < len(self._packets) else None
            if skips and packet:
                self._context.skip_frame = "DEFAULT" if packet.pts in wanted_stamps else "NONREF"
            for frame in self._context.decode(packet):
                stamp, count = count if self._counted else frame.pts, count + 1
                if start and stamp == firsts[start] and not frame.key_frame:
                    raise DecodeError("a key frame is none")
                if stamps and stamp == stamps[0]:
                    if frame.is_corrupt:
                        raise DecodeError("a frame is damaged")
                    stamps.popleft()
                    yield frame
            place += 1


def open_video(data: bytes) -> Video:
    """The first video stream of a file.

    Raises:
        DecodeError: it holds none that FFmpeg reads, is truncated or damaged, or has frames of more pixels than
            Image.MAX_IMAGE_PIXELS.
        UserError: PyAV is not installed.
    """
    av = imported()
    options = {"format_whitelist": FORMATS}
    with as_decode_error(), av.open(BytesIO(data), options=options, metadata_errors="replace") as container:
        stream = next((s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic), None)
        if stream is None:
            raise DecodeError("it has no video stream")
        if stream.codec_context is None:
            raise DecodeError("it has a video stream of a kind that FFmpeg does not decode")
        context = stream.codec_context
        check_size(context.width, context.height)
        check_whole(data, stream)
        context.thread_count = 1
        packets = [packet for packet in container.demux(stream) if packet.size]
        if any(packet.is_corrupt for packet in packets):
            raise DecodeError("it is truncated or damaged")
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        return Video(packets, context, rate, container.format.name)


def imported() -> Any:
    try:
        import av
    except ImportError as error:
        raise UserError("reading videos needs PyAV: pip install 'jepa_pipeline[video]'") from error
    return av


@contextmanager
def as_decode_error() -> Iterator[None]:
    """What PyAV raises on damaged bytes as a DecodeError."""
    try:
        yield
    except DecodeError:
        raise
    except imported().error.InvalidDataError as error:
        raise DecodeError("it is not a video of a format that is read, or is damaged") from error
    except (imported().FFmpegError, ArithmeticError, LookupError, OSError, RuntimeError, ValueError) as error:
        raise DecodeError(str(getattr(error, "strerror", None) or error or type(error).__name__)) from error


def check_size(width: int, height: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if not width or not height:
        raise DecodeError("its frames have no size")
    if limit is not None and width * height > limit:
        raise DecodeError(f"its frames have {width}x{height} pixels, more than the limit of {limit}")


def video_facts(data: bytes) -> VideoFacts:
    """Duration, rate, size and number of frames, from the packets and one decoded frame. Raises as open_video does."""
    return open_video(data).facts


def encode_video(frames: Iterable[UInt8[np.ndarray, "H W 3"]], fps: float, *, gop: int = 12, crf: int = 18) -> bytes:
    """An mp4 file (H.264, yuv420p) of frames of even sides. The same frames make the same bytes.

    gop: frames from one key frame to the next at most; crf: x264's quality, 0 the best.

    Raises:
        ValueError: a side is odd.
    """
    rate = Fraction(fps).limit_denominator(1001)
    return encode(((pixels, number, 1) for number, pixels in enumerate(frames)), rate, 1 / rate, gop, crf)


def reencode(data: bytes, *, size: int | None, gop: int, crf: int) -> bytes:
    """A video as an mp4 file, upright, without sound, its times kept, its shorter side no longer than size. Sides are made
    even, and at least 2; none grows but to that.

    Raises:
        DecodeError: one of its frames cannot be decoded.
    """
    video = open_video(data)
    shorter = min(video.coded_size)
    width, height = (max(2, side * min(size or shorter, shorter) // shorter // 2 * 2) for side in video.coded_size)
    stamps = video.stamps - video.stamps[0]
    lasts = np.diff(stamps, append=round(video.duration_s / video.time_base))
    timed = zip(video.upright((width, height)), stamps.tolist(), lasts.tolist(), strict=True)
    return encode(timed, Fraction(video.facts.fps).limit_denominator(1001), video.time_base, gop, crf)


def encode(
    frames: Iterable[tuple[UInt8[np.ndarray, "H W 3"], int, int]], rate: Fraction, time_base: Fraction, gop: int, crf: int
) -> bytes:
    """An mp4 file of frames, each with its time and how long it lasts, in units of time_base."""
    av = imported()
    file, reformatter = BytesIO(), av.video.reformatter.VideoReformatter()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        options = {"preset": PRESET, "crf": str(crf), "threads": "1", "mbtree": "0"}  # mbtree may make other bytes the next time
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.pix_fmt, stream.codec_context.gop_size, stream.codec_context.time_base = "yuv420p", gop, time_base
        stream.codec_context.flags |= av.codec.context.Flags.frame_duration
        for pixels, stamp, lasts in frames:
            if not stream.codec_context.is_open:
                stream.height, stream.width = even_sides(pixels)
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            frame = reformatter.reformat(rgb, format="yuv420p", threads=1)
            frame.pts, frame.duration, frame.time_base = stamp, lasts, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def even_sides(pixels: UInt8[np.ndarray, "H W 3"]) -> tuple[int, int]:
    height, width = pixels.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"frames have {width}x{height} pixels, but H.264 halves the sides of its colors: give even sides")
    return height, width
