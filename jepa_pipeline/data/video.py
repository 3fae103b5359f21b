"""Compressed bytes to any frames of a video, decoding as few others as possible."""

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from PIL import Image

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.frame_orientation import UPRIGHT, Orientation, has_own_orientation, read_orientation
from jepa_pipeline.data.sample import MAX_PIXELS, DecodeError, TooLarge, VideoMetadata
from jepa_pipeline.data.video_container import (
    FORMATS,
    WITHOUT_DISPLAY_TIMES,
    WITHOUT_KEY_FRAMES,
    is_hidden,
    is_truncated,
    key_packets,
    repeat_settings,
)

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

DISPOSABLE_FRAMES_CODEC = "h264"
"""The codec whose frames say reliably whether others need them; those of HEVC do not."""

MAX_REORDERED = 16
"""Frames that are kept while one that is shown earlier is awaited; a decoder of H.264 reorders as many."""


class Video:
    """A video in memory whose frames are decoded on request, by one thread at a time. Frames are indexed in display order.

    Attributes:
        times: seconds from the first frame to each, ascending; the frame rate may vary.
        duration_s: to the end of the last frame, which is taken to last as long as the others on average, because what
            files declare is unreliable.
        pts: presentation timestamps of the frames, in units of time_base.
        tracks: number of video tracks in its file that are no stills, of which it is one.
        max_pixels: that may be decoded in all.
    """

    tracks = 1

    max_pixels = MAX_PIXELS

    def __init__(self, packets: "list[av.Packet[Any]]", context: "av.VideoCodecContext", rate: Fraction, container: str) -> None:
        from av.video.reformatter import VideoReformatter

        self._packets, self._context, self._decoded_pixels = packets, context, 0
        self.coded_size = context.width, context.height
        self._reformatter = VideoReformatter()
        self._orientation: Orientation | None = None
        shown = [packet for packet in packets if not packet.is_discard and not is_hidden(packet, context.name)]
        if not shown:
            raise DecodeError("its video stream is empty")
        # AVI and ASF store no display times, and FFmpeg guesses them wrongly where frames are reordered: count the frames instead.
        stamps = {packet.pts for packet in shown if packet.pts is not None}
        self._no_timestamps = len(stamps) < len(shown) or (container in WITHOUT_DISPLAY_TIMES and context.has_b_frames)
        self.time_base = 1 / rate if self._no_timestamps else packets[0].time_base
        self.pts: Int64[np.ndarray, " N"] = np.arange(len(shown)) if self._no_timestamps else np.array(sorted(stamps))
        self.times: Float64[np.ndarray, " N"] = (self.pts - self.pts[0]) * float(self.time_base)
        self.duration_s = float(self.times[-1] / (len(shown) - 1) * len(shown) if len(shown) > 1 else 1 / rate)
        self._keys = [0] if self._no_timestamps or container in WITHOUT_KEY_FRAMES else key_packets(packets)
        self._key_pts = [packets[key].pts or 0 for key in self._keys]

    def __len__(self) -> int:
        return len(self.times)

    @property
    def width(self) -> int:
        """Return the width of an upright frame, in pixels."""
        return self._first_frame.shape[1]

    @property
    def height(self) -> int:
        """Return the height of an upright frame, in pixels."""
        return self._first_frame.shape[0]

    @cached_property
    def metadata(self) -> VideoMetadata:
        fps = len(self) / self.duration_s
        return VideoMetadata(duration_s=self.duration_s, fps=fps, width=self.width, height=self.height, frames=len(self))

    @cached_property
    def _first_frame(self) -> UInt8[np.ndarray, "H W 3"]:
        return self.frames(np.zeros(1, np.int64))[0]

    def frames(self, indices: Int64[np.ndarray, " T"]) -> UInt8[np.ndarray, "T H W 3"]:
        """Return frames by index, in any order, as RGB and upright. Each is decoded once; non-square pixels are kept.

        Raises:
            DecodeError: one of them cannot be decoded.
            IndexError: there is no frame with that index.
        """
        unique, inverse = np.unique(indices, return_inverse=True)
        rows = {index: row for row, index in enumerate(unique.tolist())}
        pixels = np.empty(0, np.uint8)
        for index, frame in self.iter_frames(unique):
            if not pixels.size:
                pixels = np.empty((len(unique), *frame.shape), np.uint8)
            pixels[rows[index]] = frame
        ascending = len(unique) == len(indices) and (np.diff(inverse) > 0).all()
        return pixels if ascending else pixels[inverse]

    def iter_frames(self, indices: Int64[np.ndarray, " T"]) -> "Iterator[tuple[int, UInt8[np.ndarray, 'H W 3']]]":
        """Yield (index, frame) for ascending indices, with frames and errors as in frames. A frame is valid until the next.

        If a key frame turns out to be none, all frames are yielded a second time, and only those count.
        """
        if indices[0] < 0 or indices[-1] >= len(self):
            raise IndexError(f"there are frames 0 to {len(self) - 1}, not {indices[0]} to {indices[-1]}")
        try:
            yield from self._iter_rgb(indices.tolist(), seek=True)
        except DecodeError:  # a key flag may be wrong: decode from the first frame on
            if len(self._keys) == 1:
                raise
            yield from self._iter_rgb(indices.tolist(), seek=False)

    def _iter_rgb(self, indices: list[int], seek: bool) -> "Iterator[tuple[int, UInt8[np.ndarray, 'H W 3']]]":
        with as_decode_error():
            if self._orientation is None and self._any_own_orientation():
                self._orientation = self._first_orientation()
            for index, frame in zip(indices, self.decode(indices, seek), strict=True):
                yield index, self.to_rgb(frame, *self.coded_size)

    def _any_own_orientation(self) -> bool:
        """Return whether the frames may differ in their orientation. Encoders state it in key frames."""
        extradata, first = self._context.extradata or b"", self._packets[0]
        keys = (packet for packet in self._packets if packet.is_keyframe or packet is first)
        return any(has_own_orientation(packet, self._context.name, extradata) for packet in keys)

    def _first_orientation(self) -> Orientation:
        """Return the orientation of the first frame, which holds for all: of later frames only some may have one."""
        self._context.flush_buffers()
        self._context.skip_frame = "DEFAULT"
        for packet in (self._packets[0], None):
            for frame in self._context.decode(packet):
                return read_orientation(frame)
        return UPRIGHT

    def to_rgb(self, frame: "av.VideoFrame", width: int, height: int) -> UInt8[np.ndarray, "_ _ 3"]:
        """Return a decoded frame as RGB, resized to width and height, then made upright. It is valid until the next call."""
        if self._orientation is None:
            self._orientation = read_orientation(frame)
        rgb = self._reformatter.reformat(frame, width, height, "rgb24", threads=1)
        plane = rgb.planes[0]  # its rows are padded to line_size; the view is not copied
        pixels = (
            np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)[:, : width * 3].reshape(height, width, 3)
        )
        upright = pixels.transpose(1, 0, 2) if self._orientation.transposed else pixels
        return upright[:: self._orientation.row_step, :: self._orientation.column_step]

    def decode(self, indices: Sequence[int], seek: bool = False) -> "Iterator[av.VideoFrame]":
        """Yield frames of FFmpeg by ascending indices.

        Args:
            indices: of the frames.
            seek: start at key frames and skip frames that no other needs, which is right unless the file's flags are wrong.

        Raises:
            DecodeError: one of them cannot be decoded.
            TooLarge: more than max_pixels have been decoded, or the frames alone have more.
        """
        width, height = self.coded_size
        if len(indices) * width * height > self.max_pixels:
            raise TooLarge(f"{len(indices)} frames of it have {width}x{height} pixels each", self.max_pixels)
        key_pts = self._key_pts if seek else self._key_pts[:1]
        pending = deque(self.pts[list(indices)].tolist())
        requested, position, count, start = set(pending), -1, 0, 0
        early: dict[int | None, av.VideoFrame] = {}  # frames that came before one that is shown earlier, by wrong timestamps
        skip_disposable = seek and self._context.name == DISPOSABLE_FRAMES_CODEC and not self._no_timestamps
        self._context.skip_frame = "DEFAULT"
        while pending:
            key = max(0, bisect_right(key_pts, pending[0]) - 1)
            if position < 0 or self._keys[key] > position:
                self._context.flush_buffers()
                position, count, start = self._keys[key], 0, key
            if position > len(self._packets) or len(early) > MAX_REORDERED:
                raise DecodeError(f"the frame at {float((pending[0] - self.pts[0]) * self.time_base):.2f} s cannot be decoded")
            packet = self._packets[position] if position < len(self._packets) else None  # None flushes the decoder
            skipping = bool(skip_disposable and packet and packet.pts not in requested)
            if skip_disposable and packet:
                self._context.skip_frame = "NONREF" if skipping else "DEFAULT"
            frames = self._context.decode(packet)
            self._count_pixels(frames, hidden=packet is not None and not skipping)
            for frame in frames:
                pts, count = count if self._no_timestamps else frame.pts, count + 1
                if start and pts == key_pts[start] and not frame.key_frame:
                    raise DecodeError("a frame is wrongly flagged as a key frame")
                if pts in requested:
                    early[pts] = frame
                while pending and pending[0] in early:
                    frame = early.pop(pending.popleft())
                    if frame.is_corrupt:
                        raise DecodeError("a frame is damaged")
                    yield frame
            position += 1

    def _count_pixels(self, frames: "Sequence[av.VideoFrame]", hidden: bool) -> None:
        """Count what a packet took, by the size of its frames, which may change within a file; hidden: one may not be shown."""
        size = self._context.width * self._context.height
        self._decoded_pixels += max(sum(frame.width * frame.height for frame in frames), size if hidden else 0)
        if self._decoded_pixels > self.max_pixels:
            raise TooLarge(f"the frames decoded for it have {self._decoded_pixels / 1e6:,.6g} megapixels", self.max_pixels)


def open_video(data: bytes, max_pixels: float = MAX_PIXELS) -> Video:
    """Return the video that a player shows: the best track of a file.

    Raises:
        DecodeError: it has none that FFmpeg reads, is truncated or damaged, or has frames of more pixels than
            Image.MAX_IMAGE_PIXELS.
        UserError: PyAV is not installed.
    """
    av = import_av()
    options = {"format_whitelist": FORMATS}
    with as_decode_error(), av.open(BytesIO(data), options=options, metadata_errors="replace") as container:
        stream, packets, tracks = read_packets(container, data)
        context = stream.codec_context
        check_size(context.width, context.height)
        context.thread_count = 1  # the data workers use the other cores
        if packets:
            repeat_settings(packets, context.extradata)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        video = Video(packets, context, rate, container.format.name)
        video.tracks, video.max_pixels = tracks, max_pixels
        return video


def read_packets(container: "InputContainer", data: bytes) -> "tuple[av.VideoStream, list[av.Packet[Any]], int]":
    """Return the track that a player shows, its packets, and the number of tracks that are no stills.

    Of several tracks a still, such as a cover, is not shown beside one that moves; else FFmpeg chooses, by the tracks' flags first.

    Raises:
        DecodeError: there is none that FFmpeg decodes, or the file is truncated or damaged.
    """
    from av.stream import Disposition

    tracks = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not tracks:
        raise DecodeError("it has no video stream")
    tracks = [stream for stream in tracks if stream.codec_context is not None]
    if not tracks:
        raise DecodeError("FFmpeg has no decoder for its video stream")
    if any(is_truncated(data, stream) for stream in tracks):
        raise DecodeError("it is truncated")
    packets = [packet for packet in container.demux(tracks) if packet.size]
    sizes = Counter(packet.stream_index for packet in packets)
    moving = [stream for stream in tracks if sizes[stream.index] > 1] or tracks
    best = container.streams.best("video")
    by_flags = sorted(moving, key=lambda stream: not stream.disposition & Disposition.default)
    chosen = next((stream for stream in moving if best is not None and stream.index == best.index), by_flags[0])
    packets = [packet for packet in packets if packet.stream_index == chosen.index]
    if any(packet.is_corrupt for packet in packets):
        raise DecodeError("it is truncated or damaged")
    return chosen, packets, len(moving)


def import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise UserError("reading videos needs PyAV: pip install 'av>=18'") from error
    return av


@contextmanager
def as_decode_error() -> Iterator[None]:
    """Raise the errors of PyAV on damaged bytes as DecodeError."""
    try:
        yield
    except DecodeError:
        raise
    except import_av().error.InvalidDataError as error:
        raise DecodeError("it is not a video of a supported format, or is damaged") from error
    except (import_av().FFmpegError, ArithmeticError, LookupError, OSError, RuntimeError, ValueError) as error:
        raise DecodeError(str(getattr(error, "strerror", None) or error or type(error).__name__)) from error


def check_size(width: int, height: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if not width or not height:
        raise DecodeError("its frames have no size")
    if limit is not None and width * height > limit:
        raise DecodeError(f"its frames have {width}x{height} pixels, more than the limit of {limit}")
