"""A clip shows the requested frames, all cropped alike, decoded once, at the speed of the decoder itself."""

import gc
import io
import pathlib
import sys
import time
import tracemalloc

import av
import numpy as np
import pytest
import torch
from PIL import Image

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.crop import CropConfig, Resampling
from jepa_pipeline.config.views import ViewsConfig
from jepa_pipeline.data.clips import ClipViews, TooShort, clip_frame_indices, extract_eval_clips, segment_frame_indices
from jepa_pipeline.data.resample import resized_crop
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.data.sample import DecodeError
from jepa_pipeline.data.video import Video, open_video
from jepa_pipeline.data.video_writer import encode_video
from jepa_pipeline.data.views import center_view, random_view, sample_crop

EVEN = np.arange(50) / 25
UNEVEN = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.3, 60))
UNEVEN -= UNEVEN[0]


def frame_indices(config, frames, times=EVEN, sample=0):
    return clip_frame_indices(times, duration(times), frames, config, keyed_generator(0, Stream.VIEW, 0, sample))


def duration(times):
    return float(times[-1] * len(times) / (len(times) - 1))


def lossless(frames):
    """A video of just these pixels."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for pixels in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")))
        output.mux(stream.encode(None))
    return file.getvalue()


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 44, 3), np.uint8)


@pytest.fixture
def video(noise):
    opened = open_video(lossless(noise))
    assert (opened.frames(np.arange(20)) == noise).all()
    return opened


def generators(count=1, sample=0):
    return [keyed_generator(0, Stream.VIEW, 0, sample, view) for view in range(count)]


def test_starts_are_uniform_over_all_that_fit():
    """A chi-square test of each: 40 starts with the stride, and with the rate of the video itself."""
    for config, starts in ((ClipConfig(stride=3), 50 - 9), (ClipConfig(fps=25), 50 - 3), (ClipConfig(fps=25 / 3), 50 - 9)):
        clips = np.stack([frame_indices(config, 4, sample=sample) for sample in range(8000)])
        counts = np.bincount(clips[:, 0], minlength=starts)
        assert len(counts) == starts
        assert ((counts - 8000 / starts) ** 2 / (8000 / starts)).sum() < starts + 5 * np.sqrt(2 * starts)
        assert clips.max() == 49
        assert (np.diff(clips) == np.diff(clips)[0, 0]).all()


def test_with_fps_a_frame_is_the_one_shown_at_its_time():
    config = ClipConfig(fps=7)
    for sample in range(200):
        draw = keyed_generator(0, Stream.VIEW, 0, sample).random()
        at = draw * (duration(UNEVEN) - 7 / 7) + np.arange(8) / 7
        expected = [max(n for n, since in enumerate(UNEVEN) if since <= moment) for moment in at]
        assert frame_indices(config, 8, UNEVEN, sample).tolist() == expected


def test_the_middle_clip_lies_in_the_middle_and_draws_as_much():
    assert frame_indices(ClipConfig(stride=4, start="center"), 8).tolist() == [10, 14, 18, 22, 26, 30, 34, 38]
    assert frame_indices(ClipConfig(fps=5, start="center"), 4).tolist() == [15, 20, 25, 30]
    states = []
    for start in ("random", "center"):
        generator = keyed_generator(0, Stream.VIEW, 0, 0)
        clip_frame_indices(EVEN, 2.0, 4, ClipConfig(start=start), generator)
        states.append(generator.random())
    assert states[0] == states[1]


def test_short_videos_begin_again_or_are_skipped():
    assert frame_indices(ClipConfig(stride=4), 5, EVEN[:7]).tolist() == [0, 4, 1, 5, 2]
    assert frame_indices(ClipConfig(fps=10), 5, EVEN[:5]).tolist() == [0, 2, 0, 2, 0]  # at 0, 0.1 and then 0.2 s, which is its end
    whole = ClipConfig(stride=4, short="skip"), ClipConfig(fps=25, short="skip")
    assert frame_indices(whole[0], 13).tolist() in ([*range(0, 50, 4)], [*range(1, 50, 4)])
    assert frame_indices(whole[1], 50).tolist() == [*range(50)]
    with pytest.raises(DecodeError, match="it has 50 frames, but a clip of 14 with stride 4 spans 53"):
        frame_indices(whole[0], 14)
    with pytest.raises(DecodeError, match=r"it lasts 2.00 s, but a clip of 51 frames at 25 fps needs more than 2.00 s$"):
        frame_indices(whole[1], 51)
    assert len(frame_indices(whole[1], 51, np.arange(51) / 25)) == 51


@pytest.mark.parametrize("config", [ClipConfig(stride=4, short="skip"), ClipConfig(fps=5, short="skip")])
def test_a_video_that_is_too_short_is_cured_by_the_configuration(config):
    """Its data set is intact, so `jepa shards check` would not name it."""
    with pytest.raises(TooShort) as caught:
        clip_frame_indices(np.zeros(1), 0.1, 4, config, keyed_generator(0, Stream.VIEW, 0, 0))
    text, cure = str(caught.value), "set views.clip.short to loop or hold, or views.clip to a shorter span"
    lasts = "it lasts 0.10 s, but a clip of 4 frames at 5 fps needs more than 0.60 s"
    assert text == (lasts if config.fps else "it has 1 frame, but a clip of 4 with stride 4 spans 13")
    assert caught.value.cure == cure


def released_clip(length, frames, stride):
    """The formula of V-JEPA's data set for the first clip of a video, padded with its last frame if it is short."""
    window = frames * stride
    if length > window:
        return np.linspace(0, window, frames).clip(0, window - 1).astype(int).tolist()
    shown = length // stride
    points = np.concatenate([np.linspace(0, length, shown), np.full(frames - shown, length)])
    return points.clip(0, length - 1).astype(int).tolist()


def test_window_and_hold_are_the_published_clips():
    config = ClipConfig(stride=4, spacing="window", short="hold")
    published = [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]
    assert frame_indices(config, 16, np.arange(64) / 25).tolist() == published
    for length in (1, 3, 4, 7, 32, 63, 64, 65):
        clip = clip_frame_indices(np.arange(length) / 25, length / 25, 16, config, keyed_generator(0, Stream.VIEW, 0, 0))
        assert (clip - clip[0] if length > 64 else clip).tolist() == released_clip(length, 16, 4)
    starts = {int(frame_indices(config, 16, np.arange(80) / 25, sample)[0]) for sample in range(300)}
    assert starts == set(range(80 - 64 + 1)), "all that fit"
    assert segment_frame_indices(np.arange(80) / 25, 3.2, 16, config, 2)[:, [0, -1]].tolist() == [[0, 63], [16, 79]]


def test_window_of_seconds_is_that_of_frames():
    """At 24 frames per second, 4 per second are every sixth."""
    times, draw = np.arange(300) / 24, keyed_generator(0, Stream.VIEW, 0, 0).random()
    seconds = frame_indices(ClipConfig(fps=4, spacing="window"), 16, times)
    assert seconds[0] == int(24 * draw * (300 / 24 - 4))
    at = 24 * draw * (300 / 24 - 4) + np.linspace(0, 96, 16)
    assert seconds.tolist() == [*at.astype(int)[:-1], int(np.ceil(at[-1])) - 1]
    for short in ("hold", "loop", "skip"):  # a video of exactly four seconds fits
        whole = clip_frame_indices(np.arange(96) / 24, 4.0, 16, ClipConfig(fps=4, spacing="window", short=short), generators()[0])
        assert whole.tolist() == released_clip(96, 16, 6)
    half = clip_frame_indices(np.arange(48) / 24, 2.0, 16, ClipConfig(fps=4, spacing="window", short="hold"), generators()[0])
    assert half.tolist() == released_clip(48, 16, 6)


def test_a_held_video_repeats_its_last_frame():
    assert frame_indices(ClipConfig(stride=4, short="hold"), 5, EVEN[:7]).tolist() == [0, 4, 6, 6, 6]
    assert frame_indices(ClipConfig(fps=10, short="hold"), 5, EVEN[:5]).tolist() == [0, 2, 4, 4, 4]
    assert segment_frame_indices(EVEN[:7], 0.28, 5, ClipConfig(stride=4, short="hold"), 2).tolist() == [[0, 4, 6, 6, 6]] * 2
    looped = frame_indices(ClipConfig(stride=2, spacing="window"), 4, EVEN[:5])
    assert looped.tolist() == [0, 2, 0, 2], "2 x 4 frames: 0, 2, 5 and 7, counted from the start again"


def test_a_window_that_does_not_fit_says_what_it_needs():
    for config, sentence in (
        (ClipConfig(stride=4, spacing="window", short="skip"), "it has 50 frames, but a clip of 16 with stride 4 spans 64"),
        (ClipConfig(fps=4, spacing="window", short="skip"), "it lasts 2.00 s, but a clip of 16 frames at 4 fps needs 4.00 s"),
    ):
        with pytest.raises(TooShort, match=sentence):
            frame_indices(config, 16)


@pytest.mark.parametrize("config", [ClipConfig(stride=2), ClipConfig(fps=12.5), ClipConfig(fps=12.5, short="skip")])
def test_segments_are_evenly_spaced_from_end_to_end(config):
    assert segment_frame_indices(EVEN, 2.0, 5, config, 1).tolist() == [[20, 22, 24, 26, 28]]
    assert segment_frame_indices(EVEN, 2.0, 5, config, 3)[:, 0].tolist() == [0, 20, 40 if config.fps else 41]
    assert segment_frame_indices(EVEN, 2.0, 5, config, 5)[:, 0].tolist() == (
        [0, 10, 20, 30, 40] if config.fps else [0, 10, 20, 30, 41]
    )
    short = segment_frame_indices(EVEN[:3], 0.12, 5, config, 2)
    assert (short == short[0]).all()
    assert short[0].tolist() == [0, 2, 1, 0, 2]


def test_every_frame_of_a_view_is_cropped_and_mirrored_alike(video, noise):
    crop = CropConfig(count=2, scale=(0.2, 0.8), flip=0.5)
    config = ViewsConfig(crops=(crop, CropConfig(image_size=10)), clip=ClipConfig(stride=2))
    views = ClipViews(config, 16, 4, 6)
    for sample in range(6):
        views.add(video, generators(3, sample))
    made, uncut = views.finish()
    assert uncut is None
    assert [tuple(view.shape) for view in made] == [(6, 3, 4, 16, 16)] * 2 + [(6, 3, 4, 10, 10)]
    for sample in range(6):
        for view, (kind, generator) in enumerate(zip(config.kinds, generators(3, sample), strict=True)):
            which = clip_frame_indices(video.times, video.duration_s, 4, config.clip, generator)
            state = generator.bit_generator.state
            for frame, number in enumerate(which):
                generator.bit_generator.state = state
                expected = random_view(Image.fromarray(noise[number]), kind, made[view].shape[-1], generator)
                assert (made[view][sample, :, frame].numpy() == expected).all()


def test_clips_are_resized_as_configured(video, noise):
    views = ClipViews(ViewsConfig(interpolation="bilinear", antialias=False, clip=ClipConfig(stride=1)), 16, 2, 1)
    views.add(video, generators())
    generator = generators()[0]
    which = clip_frame_indices(video.times, video.duration_s, 2, ClipConfig(stride=1), generator)
    box, _ = sample_crop((44, 30), CropConfig(), generator)
    for frame, number in enumerate(which):
        expected = resized_crop(Image.fromarray(noise[number]), box, 16, Resampling("bilinear", antialias=False))
        assert (views.finish()[0][0][0, :, frame].numpy() == expected).all()


def test_all_views_of_a_video_come_from_one_decoding(video, monkeypatch):
    asked, each = [], Video.iter_frames
    monkeypatch.setattr(Video, "iter_frames", lambda self, numbers: [asked.append(numbers), each(self, numbers)][1])
    ClipViews(ViewsConfig(crops=(CropConfig(count=3),), clip=ClipConfig(stride=1)), 8, 12, 1).add(video, generators(3))
    assert len(asked) == 1
    assert (np.diff(asked[0]) > 0).all()
    extract_eval_clips(video, 12, ClipConfig(stride=1), 4, 3, 8)
    assert len(asked) == 2
    assert (np.diff(asked[1]) > 0).all()


def test_an_image_is_a_clip_that_stands_still(noise):
    config = ViewsConfig(crops=(CropConfig(flip=1.0),), clip=ClipConfig(short="skip", stride=1))
    views = ClipViews(config, 16, 1, 1)
    views.add(Image.fromarray(noise[0]), generators())
    still = views.finish()[0][0]
    views = ClipViews(ViewsConfig(crops=(CropConfig(flip=1.0),)), 16, 4, 1)
    views.add(Image.fromarray(noise[0]), generators())
    assert (views.finish()[0][0] == still).all()
    evaluated = extract_eval_clips(Image.fromarray(noise[0]), 4, ClipConfig(), 2, 1, 16)
    assert (evaluated == center_view(Image.fromarray(noise[0]), 16)[:, None]).all()


def test_a_damaged_video_leaves_no_trace(video):
    config = ViewsConfig(clip=ClipConfig(stride=1, short="skip"))
    views, clean = ClipViews(config, 8, 4, 2), ClipViews(config, 8, 4, 2)
    short = open_video(lossless(np.zeros((3, 30, 44, 3), np.uint8)))
    for sample in range(2):
        with pytest.raises(DecodeError, match="it has 3 frames"):
            views.add(short, generators(1, 7))
        for target in (views, clean):
            target.add(video, generators(1, sample))
    assert (views.finish()[0][0] == clean.finish()[0][0]).all()


@pytest.mark.parametrize("upright", [False, True])
def test_evaluation_sees_squares_along_the_longer_side(upright, noise):
    frames = noise.transpose(0, 2, 1, 3) if upright else noise
    opened = open_video(lossless(frames))
    clips = extract_eval_clips(opened, 3, ClipConfig(stride=5), 2, 3, 12)
    assert clips.shape == (2, 3, 3, 3, 12, 12)
    for segment, which in enumerate([[0, 5, 10], [9, 14, 19]]):
        for frame, number in enumerate(which):
            image = Image.fromarray(np.ascontiguousarray(frames[number]))  # 44 x 30 pixels, or upright
            resized = np.asarray(image.resize((12, 17) if upright else (17, 12), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
            for view, shift in enumerate([0, 2, 5]):
                expected = resized[:, shift : shift + 12] if upright else resized[:, :, shift : shift + 12]
                assert (clips[segment, view, :, frame] == expected).all()
    single = extract_eval_clips(opened, 3, ClipConfig(stride=5), 1, 1, 12)
    middle = [center_view(Image.fromarray(np.ascontiguousarray(frames[number])), 12) for number in (4, 9, 14)]
    assert (single[0, 0] == np.stack(middle, 1)).all()


@pytest.fixture(scope="module")
def long():
    """64 frames of 640x360, 44 MB as they are."""
    return encode_video((np.full((360, 640, 3), 3 * number, np.uint8) for number in range(64)), 25.0)


def peak_mb():
    with open("/proc/self/status") as file:  # noqa: PTH123
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("evaluated", [False, True])
def test_memory_holds_one_frame_and_the_views(long, evaluated):
    """Of NumPy and, for what others hold, of the process."""

    def clips():
        if evaluated:
            return extract_eval_clips(open_video(long), 64, ClipConfig(stride=1), 1, 2, 64)
        views = ClipViews(ViewsConfig(crops=(CropConfig(count=2),), clip=ClipConfig(stride=1)), 64, 64, 1)
        views.add(open_video(long), generators(2))
        return views.finish()

    clips()
    gc.collect()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_mb()
    tracemalloc.start()
    try:
        clips()
        arrays = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    views_mb = 2 * 64 * 3 * 64 * 64 / 2**20
    assert arrays < views_mb + 2
    assert peak_mb() - before < views_mb + 16


def bare_clip(data, which, box, image_size, clip):
    """What PyAV and Pillow need for one clip, and nothing else."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        wanted = (np.unique(which) / 25 / float(stream.time_base)).round().astype(int).tolist()
        container.seek(wanted[0], stream=stream)
        for frame in container.decode(stream):
            if frame.pts == wanted[0]:
                view = frame.to_image().resize((image_size, image_size), Image.Resampling.BICUBIC, box=box)
                clip[:, -len(wanted)] = np.asarray(view).transpose(2, 0, 1)
                del wanted[0]
                if not wanted:
                    return


@pytest.mark.parametrize("gop", [12, 250])
def test_clips_come_as_fast_as_the_decoder_gives_them(gop, capsys):
    """In time of this process, so that others on the machine count less; the best of several turns."""
    shape = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    large = np.asarray(Image.fromarray(shape).resize((340 + 150, 256)))
    data = encode_video((large[:, n : n + 340] for n in range(150)), 25.0, gop=gop)
    config, times = ViewsConfig(clip=ClipConfig(stride=4)), open_video(data).times
    views, bare = ClipViews(config, 224, 16, 1), np.empty((3, 16, 224, 224), np.uint8)

    def ours(seed):
        views.added = 0
        views.add(open_video(data), [np.random.default_rng(seed)])

    def theirs(seed):
        generator = np.random.default_rng(seed)
        which = clip_frame_indices(times, 6.0, 16, config.clip, generator)
        bare_clip(data, which, sample_crop((340, 256), config.kinds[0], generator)[0], 224, bare)

    def seconds(make, seed):
        start = time.process_time()
        make(seed)
        return time.process_time() - start

    ours(0), theirs(0)
    assert torch.equal(views.finish()[0][0][0], torch.from_numpy(bare))
    spent = np.array([[seconds(make, seed) for make in (ours, theirs)] for seed in range(1, 21)])
    best = spent.reshape(5, 4, 2).sum(1)
    ratio = float(max(best[:, 1] / best[:, 0]))
    with capsys.disabled():
        print(
            f" [{ratio:.2f} of the bare loop's clips per second at gop {gop}, median {np.median(best[:, 1] / best[:, 0]):.2f}]",
            end="",
        )
    assert ratio > 0.85


def test_an_image_in_a_mixture_is_no_video_that_is_too_short():
    views = ClipViews(ViewsConfig(clip=ClipConfig(stride=2, short="skip")), 8, 4, 1)
    views.add(Image.fromarray(np.arange(12 * 12 * 3, dtype=np.uint8).reshape(12, 12, 3)), [np.random.default_rng(0)])
    (clip,), _ = views.finish()
    assert all(torch.equal(clip[:, :, 0], clip[:, :, time]) for time in range(4))
