"""The frames baselines: clips in order, shuffled, and frame by frame."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from jepa_pipeline.batch import Batch
from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.data.clips import extract_eval_clips
from jepa_pipeline.data.eval_clips import EvalClips
from jepa_pipeline.data.shards import SampleError, Shards
from jepa_pipeline.data.video import open_video
from jepa_pipeline.data.video_writer import encode_video
from jepa_pipeline.data.writer import png_record, video_record, write_shards
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.probes.feature_extractors import FeatureExtractor, frame_orders, shuffle_frames
from jepa_pipeline.probes.features import Preprocessing, extract
from jepa_pipeline.probes.linear import linear_probe

LENS = Preprocessing((0.5,) * 3, (0.25,) * 3)
ENCODER = EncoderConfig(image_size=16, patch_size=8, frames=8, tubelet_size=2, embed_dim=24, depth=2, num_heads=2)


def encoder(positions="sincos"):
    torch.manual_seed(0)
    return build_encoder(ENCODER.model_copy(update={"positions": positions})).requires_grad_(False).eval()


def clips(samples, seed=0):
    """Noise that gets brighter (label 1) or darker (label 0)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % 2
    ramp = torch.linspace(-60, 60, 8) * (2 * labels[:, None] - 1)
    noise = 20 * torch.randn(samples, 3, 8, 16, 16, generator=generator)
    return (128 + ramp[:, None, :, None, None] + noise).clamp(0, 255).to(torch.uint8), labels


class Loader(DataLoader):
    """Batches of 7 samples, each of the same two clips, the second one upside down."""

    def __init__(self, pixels, labels):
        batches = [
            Batch([pixels[rows], pixels[rows].flip(3)], [], labels[rows], [str(row) for row in rows.tolist()], [])
            for rows in torch.arange(len(labels)).split(7)
        ]
        super().__init__(batches, batch_size=None, collate_fn=lambda batch: batch)


def test_orders_are_a_function_of_seed_sample_and_clip():
    orders = frame_orders([3, 0, 3], 1, 16, seed=5)
    assert (orders.sort(1).values == torch.arange(16)).all()
    assert torch.equal(orders[0], orders[2]) and not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[1:2], frame_orders([0], 1, 16, seed=5))
    others = frame_orders([3], 0, 16, seed=5), frame_orders([3], 1, 16, seed=6)
    assert not any(torch.equal(orders[:1], other) for other in others)


def test_shuffled_clips_are_the_same_frames():
    pixels = torch.randn(3, 2, 8, 4, 4)
    orders = frame_orders(range(3), 0, 8, seed=0)
    shuffled = shuffle_frames(pixels, orders)
    for row, order in enumerate(orders.tolist()):
        for place, frame in enumerate(order):
            assert torch.equal(shuffled[row, :, place], pixels[row, :, frame])


@pytest.mark.parametrize("positions", ["sincos", "rope"])
def test_frames_apart_are_read_one_by_one(positions):
    network, pixels = encoder(positions), torch.randn(3, 3, 8, 16, 16)
    pooled = FeatureExtractor(network, "apart").pooled_features("x", pixels, range(3), 0)["x"]["last"]
    tokens = FeatureExtractor(network, "apart").last_tokens("x", pixels, range(3), 0)["x"]
    frames = [network(pixels[:, :, [frame, frame]]) for frame in range(8)]
    assert torch.allclose(tokens, torch.cat(frames, 1), atol=1e-5)
    assert torch.allclose(pooled, torch.stack([tokens.mean(1) for tokens in frames]).mean(0), atol=1e-5)
    backwards = FeatureExtractor(network, "apart").pooled_features("x", pixels.flip(2), range(3), 0)["x"]["last"]
    assert torch.allclose(pooled, backwards, atol=1e-5)


def test_features_are_means_over_a_videos_clips():
    pixels, labels = clips(9)
    extractors = {name: FeatureExtractor(encoder(), name, seed=2) for name in ("in_order", "shuffled", "apart")}
    found = extract(extractors, Loader(pixels, labels), 9, LENS)
    for name, reader in extractors.items():
        reader.encoder.cpu()
        both = [
            reader.pooled_features(name, (view / 255 - 0.5) / 0.25, range(9), segment)[name]["last"]
            for segment, view in enumerate((pixels, pixels.flip(3)))
        ]
        assert torch.allclose(found.encoders[name]["last"], (both[0] + both[1]) / 2, atol=1e-5)
    assert found.encoders["pixels"]["pixels"].shape == (9, 3 * 4 * 16 * 16)


def test_test_samples_are_shuffled_differently_from_training_samples():
    pixels, labels = clips(9)
    extractors = {"shuffled": FeatureExtractor(encoder(), "shuffled")}
    whole = extract(extractors, Loader(pixels, labels), 9, LENS).encoders["shuffled"]["last"]
    rest = extract(extractors, Loader(pixels[5:], labels[5:]), 4, LENS, first=5).encoders["shuffled"]["last"]
    again = extract(extractors, Loader(pixels[5:], labels[5:]), 4, LENS).encoders["shuffled"]["last"]
    assert torch.allclose(whole[5:], rest, atol=1e-5) and not torch.allclose(rest, again, atol=1e-3)


def test_only_frames_in_order_separate_brighter_from_darker():
    config = ProbeConfig.model_validate({"weight_decay": (1e-1, 1e-2)})
    (pixels, labels), (unseen, answers) = clips(160), clips(100, seed=1)
    extractors = {name: FeatureExtractor(encoder(), name) for name in ("in_order", "shuffled", "apart")}
    train = extract(extractors, Loader(pixels, labels), 160, LENS).encoders
    test = extract(extractors, Loader(unseen, answers), 100, LENS, first=160).encoders
    right = {name: linear_probe(train[name], labels, test[name], answers, 2, config).correct for name in train}
    assert right["in_order"] == right["pixels"] == 100
    assert right["shuffled"] < 70 and right["apart"] < 70


def video(number, frames=12):
    """Each frame of its own gray."""
    grays = np.linspace(20 + number, 230, frames)
    return encode_video([np.full((20, 28, 3), gray, np.uint8) for gray in grays], 10.0)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_shards((video_record(f"{n:03d}", video(n), "mp4", n % 2) for n in range(5)), folder / "set", classes=("a", "b"), made={})
    return Shards(folder / "set")


def test_eval_clips_return_any_sample_by_segment_and_view(videos):
    clip = ClipConfig.model_validate({"stride": 2})
    batch = EvalClips(videos, 4, clip, segments=2, views=3, image_size=16).__getitems__([4, 0, 2])
    assert [tuple(view.shape) for view in batch.views] == [(3, 3, 4, 16, 16)] * 6
    assert batch.views[0].dtype == torch.uint8 and batch.labels.tolist() == [0, 0, 0] and batch.keys == ["004", "000", "002"]
    for row, number in enumerate((4, 0, 2)):
        expected = extract_eval_clips(open_video(videos.read(0, number).media), 4, clip, 2, 3, 16)
        for segment in range(2):
            for view in range(3):
                assert np.array_equal(batch.views[3 * segment + view][row], expected[segment, view])


def test_images_become_still_clips(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8))
    write_shards([png_record("a", image, 0)], tmp_path / "set", classes=("x",), made={})
    (clip,) = EvalClips(Shards(tmp_path / "set"), 4, ClipConfig.model_validate({}), 1, 1, 16).__getitems__([0]).views
    assert clip.shape == (1, 3, 4, 16, 16) and (clip == clip[:, :, :1]).all()


def test_a_damaged_video_is_named(videos, monkeypatch):
    sample = videos.read(0, 1)
    monkeypatch.setattr(videos, "read", lambda *_: sample._replace(media=sample.media[:200]))
    with pytest.raises(SampleError, match=r"sample 001 of .* cannot be used"):
        EvalClips(videos, 4, ClipConfig.model_validate({}), 1, 1, 16).__getitems__([1])
