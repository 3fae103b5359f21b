"""Frame n is the same frame in whatever order frames are asked for: containers times codecs, palettes, joined recordings."""

import io
import re
from fractions import Fraction

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from PIL import Image

from jepa_pipeline.commands.build_shards import build
from jepa_pipeline.commands.check_shards import check
from jepa_pipeline.data.video import open_video
from jepa_pipeline.data.video_container import create_side_data

COUNT, WIDTH, HEIGHT, GOP = 12, 64, 48, 4
RATE = 25


def pictures(first=0, width=WIDTH, height=HEIGHT):
    """Frames of a gradient over which a square moves."""
    frames = np.zeros((COUNT, height, width, 3), np.uint8)
    frames[..., 0] = np.arange(width) * 3
    frames[..., 1] = np.arange(height)[:, None] * 5
    for number, frame in enumerate(frames, first):
        frame[..., 2] = 17 * number % 256
        frame[10:22, 4 * number % width :][:, :12] = (250, 20, 20)
    return frames


def paletted(change):
    """Frames of colors by number, and the palette of each: another one from every fifth frame on if it changes."""
    for number in range(COUNT):
        pixels = np.full((HEIGHT, WIDTH), 30, np.uint8)
        pixels[:, 4 * number % WIDTH :][:, :8] = 200
        shift = 40 * (number // 5) * change
        levels = np.arange(256)
        palette = np.stack([np.full(256, 255), 3 * levels + shift, 255 - levels, levels + shift], axis=1)
        yield av.VideoFrame.from_ndarray((pixels, (palette % 256).astype(np.uint8)), format="pal8")


def mux(container, codec, pix_fmt, frames, options=None, b_frames=None):
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=RATE, options=options or {})
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, pix_fmt
        stream.codec_context.gop_size, stream.codec_context.thread_count = GOP, 1
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def encode(container, codec, pix_fmt, options=None, b_frames=None, **which):
    if pix_fmt == "pal8":
        return mux(container, codec, pix_fmt, list(paletted(**which)), options)
    frames = [av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=pix_fmt) for pixels in pictures(**which)]
    return mux(container, codec, pix_fmt, frames, options, b_frames)


def join(container, files):
    """Recordings in one track, joined without encoding again: the decoder's settings change in the middle."""
    file, track = io.BytesIO(), None
    with av.open(file, "w", format=container) as output:
        for part, data in enumerate(files):
            with av.open(io.BytesIO(data)) as source:
                stream = source.streams.video[0]
                if track is None:
                    track = output.add_stream_from_template(stream)
                    track.time_base = stream.time_base
                packets = [packet for packet in source.demux(stream) if packet.size]
                if part:
                    packets[0].set_sidedata(create_side_data("new_extradata", stream.codec_context.extradata))
                for packet in packets:
                    shift = int(part * COUNT / RATE / stream.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, track
                    output.mux(packet)
    return file.getvalue()


def motion_jpeg(container, orientations):
    """A video of JPEG files, each with an EXIF orientation unless it is 0, as cameras write."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        track = output.add_stream("mjpeg", rate=RATE)
        track.width, track.height, track.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        for number, (pixels, orientation) in enumerate(zip(pictures(), orientations, strict=False)):
            jpeg, exif = io.BytesIO(), Image.Exif()
            exif[0x0112], exif[0x010F] = orientation, "maker"
            Image.fromarray(pixels).save(jpeg, "JPEG", **({"exif": exif.tobytes()} if orientation else {}))
            packet = av.Packet(jpeg.getvalue())
            packet.pts = packet.dts = number
            packet.time_base, packet.is_keyframe, packet.stream = Fraction(1, RATE), True, track
            output.mux(packet)
    return file.getvalue()


def played(data):
    """All frames as a player decodes them, of the size of the file."""
    with av.open(io.BytesIO(data)) as container:
        stream = next(s for s in container.streams.video if s.codec_context)
        stream.codec_context.thread_count = 1
        size = stream.codec_context.width, stream.codec_context.height
        return np.stack([frame.reformat(*size, "rgb24", threads=1).to_ndarray() for frame in container.decode(stream)])


def assert_same_however_reached(data, whole=None):
    """Compare every frame alone from a newly opened file, and random sets of frames in random order from one file."""
    whole = played(data) if whole is None else whole
    video, generator = open_video(data), np.random.default_rng(len(data))
    assert len(video) == len(whole)
    orders = [np.arange(len(video))[::-1], generator.permutation(len(video))]
    for number in np.concatenate(orders):
        assert (video.frames(np.array([number]))[0] == whole[number]).all(), f"{number}, after others"
    for _ in range(8):
        numbers = generator.integers(0, len(video), generator.integers(1, 7))
        assert (video.frames(numbers) == whole[numbers]).all(), numbers
    assert (video.frames(np.arange(len(video))) == whole).all()
    for number in range(len(video)):
        assert (open_video(data).frames(np.array([number]))[0] == whole[number]).all(), f"{number}, alone"


FORMATS = {
    "mp4": ["libx264 yuv420p", "libx265 yuv420p", "mpeg4 yuv420p", "mjpeg yuvj420p", "libvpx-vp9 yuv420p"],
    "mov": ["libx264 yuv444p", "prores yuv422p10le", "rawvideo gray", "qtrle rgb24", "smc pal8", "rawvideo pal8", "png rgb24"],
    "avi": [
        "mpeg4 yuv420p",
        "mjpeg yuvj420p",
        "rawvideo pal8",
        "rawvideo bgr24",
        "msrle pal8",
        "huffyuv yuv422p",
        "msvideo1 rgb555le",
    ],
    "matroska": ["libx264 yuv420p", "ffv1 yuv420p", "rawvideo yuv420p", "libvpx yuv420p", "mpeg2video yuv420p"],
    "webm": ["libvpx yuv420p", "libvpx-vp9 yuv420p"],
    "gif": ["gif pal8"],
}
QUIET = {"libx264": {"x264-params": "log-level=-1"}, "libx265": {"x265-params": "log-level=none"}}


@pytest.mark.parametrize(("container", "kind"), [(container, kind) for container, kinds in FORMATS.items() for kind in kinds])
def test_a_frame_is_the_same_however_it_is_reached(container, kind):
    codec, pix_fmt = kind.split()
    for change in (False, True) if pix_fmt == "pal8" else (None,):
        which = {} if change is None else {"change": change}
        assert_same_however_reached(encode(container, codec, pix_fmt, QUIET.get(codec), **which))


X264 = "log-level=-1:bframes=0:"
JOINED = {
    "h264, same settings": ("libx264", X264, X264),
    "h264, other transforms": ("libx264", X264 + "cabac=1:8x8dct=1:weightp=2", X264 + "cabac=0:8x8dct=0:weightp=0:ref=1"),
    "h264, more reference frames": ("libx264", X264 + "ref=1:cabac=0", X264 + "ref=4"),
    "hevc": ("libx265", "log-level=none", "log-level=none:bframes=0:ctu=16:sao=0"),
}


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (80, 64)])
@pytest.mark.parametrize("container", ["mp4", "mov", "flv"])
@pytest.mark.parametrize("name", JOINED)
def test_joined_recordings_keep_the_settings_of_each(name, container, size):
    codec, *parameters = JOINED[name]
    first, second = ({"x264-params" if codec == "libx264" else "x265-params": text} for text in parameters)
    width, height = size
    files = [encode("mp4", codec, "yuv420p", first), encode("mp4", codec, "yuv420p", second, first=20, width=width, height=height)]
    data = join(container, files)
    assert_same_however_reached(data)
    if size == (WIDTH, HEIGHT):
        assert (open_video(data).frames(np.arange(2 * COUNT)) == np.concatenate([played(part) for part in files])).all()


@pytest.mark.parametrize("container", ["avi", "mov", "matroska"])
def test_exif_in_the_frames_of_a_camera(container):
    upright = played(motion_jpeg(container, [0] * COUNT))
    assert_same_however_reached(motion_jpeg(container, [1] * COUNT), upright)
    turned = np.rot90(upright, -1, axes=(1, 2))
    assert_same_however_reached(motion_jpeg(container, [6] * COUNT), turned)
    assert_same_however_reached(motion_jpeg(container, [2] * COUNT), upright[:, :, ::-1])
    assert_same_however_reached(motion_jpeg(container, [6] + [0] * (COUNT - 1)), turned)  # the first frame decides
    assert_same_however_reached(motion_jpeg(container, [0] + [6] * (COUNT - 1)), upright)


def with_orientation(codec, container, source, changed):
    """A video in which the encoder's messages say that some key frames are to be turned by 90 degrees."""
    data, file = encode(source, codec, "yuv420p", QUIET[codec]), io.BytesIO()
    with av.open(io.BytesIO(data)) as opened, av.open(file, "w", format=container) as output:
        stream = opened.streams.video[0]
        track = output.add_stream_from_template(stream)
        track.time_base = stream.time_base
        turn = BitStreamFilterContext("h264_metadata=display_orientation=insert:rotate=90", stream)
        for number, packet in enumerate(packet for packet in opened.demux(stream) if packet.size):
            for filtered in turn.filter(packet) if changed(number) else [packet]:
                filtered.stream = track
                output.mux(filtered)
    return file.getvalue(), played(data)


@pytest.mark.parametrize(("container", "source"), [("matroska", "mp4"), ("mp4", "mpegts"), ("flv", "mpegts")])
def test_the_first_frame_states_the_orientation_of_all(container, source):
    data, lying = with_orientation("libx264", container, source, lambda number: True)
    assert_same_however_reached(data, np.rot90(lying, axes=(1, 2)))
    data, lying = with_orientation("libx264", container, source, lambda number: number >= GOP)
    assert_same_however_reached(data, lying)


def test_frames_whose_times_are_in_the_order_of_decoding_are_found_alone_and_together():
    """A file without the offsets from decoding to display: wrong times, but no reason to lose a frame in one order and not in another."""
    data, file = encode("mp4", "libx264", "yuv420p", QUIET["libx264"], b_frames=2), io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format="mp4") as output:
        track = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.pts = packet.dts = 1000 * number
            packet.time_base, packet.stream = Fraction(1, 25_000), track
            output.mux(packet)
    video = open_video(file.getvalue())
    whole = video.frames(np.arange(COUNT)).copy()
    assert len(np.unique(whole.reshape(COUNT, -1), axis=0)) == COUNT
    assert_same_however_reached(file.getvalue(), whole)


def with_tracks(container, *tracks):
    """A file of several tracks, each with its codec, number of frames, whether it is flagged as the default, and its width."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        streams = []
        for codec, _, default, width in tracks:
            stream = output.add_stream(codec, rate=RATE, options=QUIET.get(codec, {}))
            stream.width, stream.height, stream.pix_fmt = width, HEIGHT, "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = av.stream.Disposition.default if default else av.stream.Disposition(0)
            streams.append(stream)
        for stream, (_, count, _, width) in zip(streams, tracks, strict=True):
            for number, pixels in enumerate(pictures(width=width)[:count]):
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=stream.pix_fmt)
                frame.pts, frame.time_base = number, Fraction(1, RATE)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    return file.getvalue()


COVER, FILM, OTHER = ("mjpeg", 1, False, 80), ("libx264", COUNT, False, WIDTH), ("libx264", COUNT, False, 96)


def flagged(track):
    return (*track[:2], True, track[3])


@pytest.mark.parametrize("container", ["matroska", "mp4", "mov", "avi"])
@pytest.mark.parametrize(
    "tracks", [(COVER, FILM), (FILM, COVER), (flagged(COVER), FILM), (FILM, flagged(COVER)), (COVER, flagged(FILM))]
)
def test_a_cover_is_not_the_video(container, tracks):
    data = with_tracks(container, *tracks)
    video = open_video(data)
    assert (video.coded_size, len(video), video.tracks) == ((WIDTH, HEIGHT), COUNT, 1)
    assert_same_however_reached(data, video.frames(np.arange(COUNT)).copy())


@pytest.mark.parametrize("container", ["matroska", "mp4", "mov"])
@pytest.mark.parametrize("tracks", [(OTHER, flagged(FILM)), (flagged(FILM), OTHER), (flagged(COVER), OTHER, flagged(FILM))])
def test_of_several_tracks_the_default_is_the_video(container, tracks):
    video = open_video(with_tracks(container, *tracks))
    assert (video.coded_size, len(video), video.tracks) == ((WIDTH, HEIGHT), COUNT, 2)


def test_a_still_alone_is_a_video_of_one_frame():
    assert len(open_video(with_tracks("matroska", flagged(COVER)))) == 1


def test_check_names_frames_that_are_never_read(tmp_path):
    film = encode("mp4", "libx264", "yuv420p", QUIET["libx264"])
    files = {"tracks.mkv": with_tracks("matroska", flagged(FILM), OTHER), "joined.mp4": film + film, "film.mp4": film}
    (tmp_path / "in").mkdir()
    for name, data in files.items():
        (tmp_path / "in" / name).write_bytes(data)
    build(tmp_path / "in", tmp_path / "out", workers=1)
    report = check(tmp_path / "out", workers=1)
    assert report.ok
    assert sorted(re.sub(".*sample [0-9]+_", "", warning) for warning in report.warnings) == [
        "joined is 2 video files joined with cat, of which only the first is read: separate them, or join them with ffmpeg",
        "tracks has 2 video tracks, of which only one is read: save the others as files of their own to use them",
    ]


CONTAINERS = ["mp4", "mov", "avi", "matroska", "webm", "gif", "flv", "asf", "ogg", "mpegts", "mpeg"]
CODECS = {
    "libx264": "yuv420p yuv444p",
    "libx265": "yuv420p",
    "libvpx": "yuv420p",
    "libvpx-vp9": "yuv420p",
    "mpeg4": "yuv420p",
    "mpeg2video": "yuv420p",
    "mpeg1video": "yuv420p",
    "mjpeg": "yuvj420p",
    "ffv1": "yuv420p bgr0 gray",
    "rawvideo": "pal8 yuv420p rgb24 bgr24 gray rgb555le",
    "huffyuv": "yuv422p rgb24",
    "ffvhuff": "yuv420p",
    "utvideo": "yuv420p",
    "magicyuv": "yuv420p",
    "png": "rgb24 pal8",
    "msrle": "pal8",
    "smc": "pal8",
    "qtrle": "rgb24 gray rgb555be",
    "rpza": "rgb555le",
    "cinepak": "rgb24 gray",
    "msvideo1": "rgb555le",
    "msmpeg4": "yuv420p",
    "msmpeg4v2": "yuv420p",
    "wmv1": "yuv420p",
    "wmv2": "yuv420p",
    "flv": "yuv420p",
    "h263p": "yuv420p",
    "prores": "yuv422p10le",
    "jpeg2000": "rgb24",
    "jpegls": "rgb24",
    "ljpeg": "bgr24",
    "snow": "yuv420p",
    "svq1": "yuv410p",
    "zmbv": "pal8 bgr0",
    "zlib": "bgr24",
    "flashsv": "bgr24",
    "gif": "pal8 rgb8",
    "asv1": "yuv420p",
    "v210": "yuv422p10le",
    "cfhd": "yuv422p10le",
    "targa": "rgb24 pal8",
    "tiff": "rgb24 pal8",
}
UNSUPPORTED = (av.FFmpegError, IndexError, StopIteration, ValueError)
"""What a container that cannot hold a codec ends in: FFmpeg does not write it, or does not read what it wrote."""


def try_formats(codec):
    """Yield the name and the bytes of each file that FFmpeg can write and read, and that opens."""
    for container in CONTAINERS:
        for pix_fmt in CODECS[codec].split():
            for change in (False, True) if pix_fmt == "pal8" else (None,):
                which = {} if change is None else {"change": change}
                try:
                    data = encode(container, codec, pix_fmt, QUIET.get(codec), **which)
                    whole = played(data)
                    open_video(data).frames(np.arange(len(whole)))
                except UNSUPPORTED:
                    continue
                yield f"{container} {pix_fmt} {change}", data


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
def test_every_container_and_codec(codec):
    compared = []
    for name, data in try_formats(codec):
        assert_same_however_reached(data)
        compared.append(name)
    assert compared
