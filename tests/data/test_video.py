"""A frame is the same frame however one comes to it, and damage is named."""

import gc
import io
import os
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.sample import DecodeError, TooLarge
from jepa_pipeline.data.video import Video, open_video
from jepa_pipeline.data.video_writer import encode_video, reencode_video

COUNT, HEIGHT, WIDTH = 40, 48, 64


def pictures(count=COUNT, height=HEIGHT, width=WIDTH):
    """Frames of a soft pattern that pans."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    large = np.asarray(Image.fromarray(noise).resize((2 * width, 2 * height)))
    return [np.ascontiguousarray(large[n % height :][:height, 2 * n % width :][:, :width]) for n in range(count)]


def write(container, codec, *, pix_fmt="yuv420p", options=None, gop=7, b_frames=None, stamps=None, turn=None, muxing=None):
    """A video of the pictures; stamps in milliseconds, else 25 frames a second."""
    file, frames = io.BytesIO(), pictures()
    with av.open(file, "w", format=container, options=muxing or {}) as output:
        stream = output.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, pix_fmt
        stream.codec_context.gop_size, stream.codec_context.time_base = gop, Fraction(1, 1000 if stamps else 25)
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        if turn is not None:
            stream.set_display_rotation(*turn)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = stamps[number] if stamps else number, stream.codec_context.time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def x264(container="mp4", params="", **more):
    return write(container, "libx264", options={"x264-params": params}, **more)


def played(data):
    """All frames as a player decodes them, one after the other."""
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.reformat(format="rgb24", threads=1).to_ndarray() for frame in container.decode(video=0)])


STAMPS = np.cumsum(np.random.default_rng(1).integers(5, 200, COUNT)).tolist()
FILES = {
    "mp4": lambda: x264(params="bframes=3"),
    "open groups in mp4": lambda: x264(params="bframes=3:open-gop=1"),
    "open groups in mkv": lambda: x264("matroska", "bframes=5:open-gop=1:b-pyramid=strict"),
    "no key frames but the first": lambda: x264(params="intra-refresh=1", gop=9),
    "interlaced": lambda: x264(params="interlaced=1:bframes=2"),
    "uneven times": lambda: x264(params="bframes=2", stamps=STAMPS),
    "first frames cut by the container": lambda: x264(
        params="bframes=2", stamps=[40 * n - 400 for n in range(COUNT)], muxing={"avoid_negative_ts": "disabled"}
    ),
    "webm": lambda: write("webm", "libvpx-vp9", options={"cpu-used": "8", "deadline": "realtime"}),
    "avi": lambda: write("avi", "mpeg4"),
    "avi without times": lambda: x264("avi", "bframes=3"),
    "mkv": lambda: write("matroska", "mpeg4", b_frames=2),
    "mpegts": lambda: write("mpegts", "mpeg2video", b_frames=2),
    "gif": lambda: write("gif", "gif", pix_fmt="rgb8"),
}
LYING = "no key frames but the first"
made = {}


def file(name):
    return made.setdefault(name, FILES[name]()) if name not in made else made[name]


@pytest.mark.parametrize("name", FILES)
def test_any_frames_are_those_that_a_player_shows(name):
    expected, video = played(file(name)), open_video(file(name))
    assert len(video) == len(expected) == len(video.times)
    generator = np.random.default_rng(0)
    for _ in range(60):
        numbers = generator.integers(0, len(video), generator.integers(1, 7))
        frames = video.frames(numbers)
        assert frames.flags.c_contiguous
        assert (frames == expected[numbers]).all(), numbers
    assert (video.frames(np.arange(len(video))) == expected).all()


@pytest.mark.parametrize("name", ["mp4", "open groups in mp4", "open groups in mkv", "webm", "avi", "mkv"])
def test_a_frame_takes_no_more_than_its_group_and_an_honest_file_is_trusted(name, monkeypatch):
    video, fed, quickly = open_video(file(name)), [], []
    decoded = Video.decode

    class Counting:
        def __init__(self, context):
            self.__dict__["context"] = context

        def __getattr__(self, attribute):
            return getattr(self.context, attribute)

        def __setattr__(self, attribute, value):
            setattr(self.context, attribute, value)

        def decode(self, packet):
            fed.append(packet)
            return self.context.decode(packet)

    monkeypatch.setattr(video, "_context", Counting(video._context))
    monkeypatch.setattr(Video, "decode", lambda self, wanted, quick: [quickly.append(quick), decoded(self, wanted, quick)][1])
    for number in range(COUNT):
        fed.clear()
        video.frames(np.array([number]))
        assert len(fed) <= 20  # a group of 7, one more where it is open, and the frames that a decoder holds back
    fed.clear()
    video.frames(np.array([1, 38]))
    assert len(fed) <= 30
    assert all(quickly)


@pytest.mark.parametrize("name", [name for name in FILES if name != LYING])
def test_frames_come_one_at_a_time_as_they_do_together(name):
    video = open_video(file(name))
    numbers = np.array([2, 3, 11, 27])
    singly = [(number, picture.copy()) for number, picture in video.iter_frames(numbers)]
    assert [number for number, _ in singly] == numbers.tolist()
    assert (np.stack([picture for _, picture in singly]) == video.frames(numbers)).all()
    next(video.iter_frames(numbers))  # and may be left halfway
    assert (video.frames(numbers) == played(file(name))[numbers]).all()


def test_of_a_file_that_lies_all_frames_come_again_and_are_right():
    came = [(number, picture.copy()) for number, picture in open_video(file(LYING)).iter_frames(np.array([2, 11, 27]))]
    assert [number for number, _ in came] == [2, 11, 2, 11, 27]
    assert all((picture == played(file(LYING))[number]).all() for number, picture in came[2:])


def test_frames_out_of_range_are_refused():
    video = open_video(file("mp4"))
    for number in (-1, COUNT):
        with pytest.raises(IndexError, match="frames 0 to 39"):
            video.frames(np.array([0, number]))


def test_times_are_those_of_the_file():
    video = open_video(file("uneven times"))
    gaps = np.array(STAMPS) - STAMPS[0]
    assert np.allclose(video.times, gaps / 1000)
    assert video.duration_s == pytest.approx(gaps[-1] / 1000 * COUNT / (COUNT - 1))
    cut = open_video(file("first frames cut by the container"))
    assert len(cut) == COUNT - 10
    assert np.allclose(cut.times, np.arange(COUNT - 10) / 25)
    for name in FILES.keys() - {"uneven times", "first frames cut by the container"}:
        assert np.allclose(open_video(file(name)).times, np.arange(COUNT) / 25), name


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize("mirrored", [False, True])
def test_frames_are_upright(degrees, mirrored):
    data = x264(turn=(degrees, mirrored))
    video, lying = open_video(data), played(data)[7]
    turned = np.rot90(lying, degrees // 90)  # counter-clockwise, as PyAV has it, and mirrored when upright
    expected = turned[:, ::-1] if mirrored else turned
    assert (video.frames(np.array([7]))[0] == expected).all()
    assert (video.height, video.width) == expected.shape[:2]
    again = open_video(reencode_video(data, size=None, gop=12, crf=10))
    assert (again.height, again.width) == expected.shape[:2]
    assert np.abs(again.frames(np.array([7]))[0].astype(int) - expected).mean() < 6


def test_facts():
    facts = open_video(x264(turn=(90,))).metadata
    assert (facts.frames, facts.width, facts.height) == (COUNT, HEIGHT, WIDTH)
    assert facts.duration_s == pytest.approx(1.6)
    assert facts.fps == pytest.approx(25)


def test_one_frame_is_a_video():
    video = open_video(encode_video(pictures(1), 10.0))
    assert (len(video), video.duration_s) == (1, pytest.approx(0.1))
    assert video.frames(np.zeros(3, np.int64)).shape == (3, HEIGHT, WIDTH, 3)


def test_what_is_written_is_read_again_and_the_same_bytes_each_time():
    frames = pictures()
    data = encode_video(frames, 12.5, gop=5, crf=5)
    assert data == encode_video(iter(frames), 12.5, gop=5, crf=5)
    video = open_video(data)
    assert np.abs(video.frames(np.arange(COUNT)).astype(int) - np.stack(frames)).mean() < 5
    assert video.metadata.fps == pytest.approx(12.5)
    with av.open(io.BytesIO(data)) as container:
        keys = [packet.pts for packet in container.demux(video=0) if packet.size and packet.is_keyframe]
    assert max(np.diff(keys)) <= 5 * keys[1] / 5
    with pytest.raises(ValueError, match="63x48"):
        encode_video([frames[0][:, :63]], 25.0)


@pytest.mark.parametrize("name", ["uneven times", "avi without times", "gif", "webm"])
def test_reencoding_keeps_times_and_never_enlarges(name):
    before = open_video(file(name))
    small, same = (open_video(reencode_video(file(name), size=size, gop=4, crf=18)) for size in (32, 500))
    assert (small.width, small.height) == (42, 32)  # 42.67 to the nearest even number
    assert (same.width, same.height) == (WIDTH, HEIGHT)
    for after in (small, same):
        assert np.abs(after.times - before.times).max() < 1e-3
        assert after.duration_s == pytest.approx(before.duration_s)
    pixels = before.frames(np.array([20]))[0], same.frames(np.array([20]))[0]
    assert np.abs(pixels[0].astype(int) - pixels[1]).mean() < (20 if name == "gif" else 8)  # colors are halved in size


@pytest.mark.parametrize(
    ("size", "sides"), [(103, (136, 102)), (102, (136, 102)), (2, (2, 2)), (None, (160, 120)), (119, (158, 118))]
)
def test_the_shorter_side_is_no_longer_than_asked(size, sides):
    again = open_video(reencode_video(encode_video(pictures(2, 120, 160), 25.0), size=size, gop=4, crf=18))
    assert (again.width, again.height) == sides
    assert size is None or min(sides) <= size


def audio_only():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def index_first(path):
    """An mp4 file that begins with its index, as those made for the web."""
    with av.open(io.BytesIO(file("mp4"))) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    return path.read_bytes()


NO_VIDEOS = {
    "empty": lambda: b"",
    "text": lambda: b"Frames to follow.\n" * 500,
    "list of other files": lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n",
    "garbage": lambda: np.random.default_rng(0).bytes(20_000),
    "zeros": lambda: bytes(20_000),
    "image": lambda: (Image.new("RGB", (9, 9)).save(file := io.BytesIO(), "PNG"), file.getvalue())[1],
    "sound": audio_only,
}


@pytest.mark.parametrize("name", NO_VIDEOS)
def test_what_is_no_video_is_refused(name, capfd):
    with pytest.raises(DecodeError):
        open_video(NO_VIDEOS[name]())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["mp4", "open groups in mkv", "webm", "avi", "gif"])
def test_truncated_files_are_refused_wherever_they_end(name, tmp_path, capfd):
    data = index_first(tmp_path / "clip.mp4") if name == "mp4" else file(name)
    assert len(open_video(data)) == COUNT
    for share in np.linspace(0.01, 0.98, 25):
        with pytest.raises(DecodeError):
            open_video(data[: int(share * len(data))])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["mp4", "webm", "avi", "avi without times", "mkv", "mpegts", "gif"])
def test_damage_is_met_with_nothing_but_decode_error(name, capfd):
    generator, refused = np.random.default_rng(0), 0
    for _ in range(30):
        data = bytearray(file(name))
        for place in generator.integers(0, len(data), 10):
            data[place] ^= 1 << int(generator.integers(8))
        try:
            video = open_video(bytes(data))
            video.frames(np.arange(len(video)))
        except DecodeError as error:
            refused += 1
            assert 3 < len(str(error)) < 200
    assert refused or name == "gif"  # whose damaged pixels are pixels all the same
    assert capfd.readouterr() == ("", "")


def test_huge_frames_are_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH - 1)
    with pytest.raises(DecodeError, match="64x48 pixels"):
        open_video(file("mp4"))


def test_without_pyav_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match="needs PyAV: pip install 'av>=18'"):
        open_video(b"")


def resident_mb():
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("clips", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_stays_flat(clips):
    """Without the garbage collector: what is dropped is freed at once."""
    files = [file(name) for name in ("mp4", "webm", "avi", "gif")]
    files.append(files[0][:-300])

    def read(count):
        generator = np.random.default_rng(0)
        for number in range(count):
            try:
                open_video(files[number % 5]).frames(np.sort(generator.integers(0, COUNT, 4)))
            except DecodeError:
                assert number % 5 == 4

    gc.collect()
    gc.disable()
    try:
        read(200)
        before = resident_mb()
        read(clips)
        assert resident_mb() - before < 8
    finally:
        gc.enable()


def test_the_pixels_that_a_clip_needs_have_a_limit():
    """All frames since the last key frame count, whichever are returned."""
    size, last = float(WIDTH * HEIGHT), np.array([COUNT - 1])
    data, dense = (x264(params="scenecut=0:bframes=0", gop=gop) for gop in (COUNT, 4))
    whole = open_video(data).frames(last)
    assert (open_video(data, 1.5 * COUNT * size).frames(last) == whole).all()
    with pytest.raises(TooLarge, match=r"the frames decoded for it have .* megapixels, more than the limit of 0.06144 megapixels"):
        open_video(data, COUNT // 2 * size).frames(last)
    assert (open_video(dense, COUNT // 2 * size).frames(last)).shape == whole.shape
    with pytest.raises(TooLarge, match=rf"^{COUNT} frames of it have {WIDTH}x{HEIGHT} pixels each, more than the limit"):
        open_video(data, COUNT * size - 1).frames(np.arange(COUNT))
