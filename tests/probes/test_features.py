"""Features are exact, whatever the batches, and every image passes once."""

import pytest
import torch
from torch.utils.data import DataLoader

from jepa_pipeline.batch import Batch
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.data.views import normalize
from jepa_pipeline.models.backbone import Backbone
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.probes.feature_extractors import FeatureExtractor
from jepa_pipeline.probes.features import Preprocessing, extract, flatten_pixels

CONFIG = EncoderConfig(image_size=16, patch_size=4, embed_dim=24, depth=5, num_heads=2)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
LENS = Preprocessing(MEAN, STD)


class Loader(DataLoader):
    """Batches of the sizes given."""

    def __init__(self, sizes, labeled=True, side=16):
        count = sum(sizes)
        self.pixels = torch.randint(256, (count, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        batches = [
            Batch([self.pixels[rows]], [], rows if labeled else None, [f"k{row}" for row in rows.tolist()], [])
            for rows in torch.arange(count).split(sizes)
        ]
        super().__init__(batches, batch_size=None, collate_fn=lambda batch: batch)


def encoder(seed):
    torch.manual_seed(seed)
    return Encoder(CONFIG).eval()


def test_features_are_means_of_normed_tokens_for_every_encoder():
    loader, encoders = Loader([4, 4, 3]), {"target": encoder(0), "random_init": encoder(1)}
    found = extract({name: FeatureExtractor(network) for name, network in encoders.items()}, loader, 11, LENS)
    for name, network in encoders.items():
        blocks = network.cpu().intermediates(normalize(loader.pixels, MEAN, STD), last=4)
        assert torch.allclose(found.encoders[name]["last"], network(normalize(loader.pixels, MEAN, STD)).mean(1), atol=1e-5)
        assert torch.allclose(found.encoders[name]["last4"], torch.cat([block.mean(1) for block in blocks], 1), atol=1e-5)
    assert torch.equal(found.encoders["pixels"]["pixels"], loader.pixels.flatten(1) / 255)
    assert found.labels.tolist() == list(range(11))
    assert found.keys == [f"k{number}" for number in range(11)]


def test_timm_networks_use_their_own_pooling_and_stages():
    torch.manual_seed(0)
    network = Backbone(BackboneConfig(timm="resnet18", image_size=64, args={"channels": (8, 8, 12, 16)})).eval()
    loader = Loader([3, 2], side=64)
    found = extract({"online": FeatureExtractor(network)}, loader, 5, LENS).encoders["online"]
    pixels = normalize(loader.pixels, MEAN, STD)
    assert torch.allclose(found["last"], network(pixels), atol=1e-5)
    stages = network.intermediates(pixels, last=4)
    assert [stage.shape[2] for stage in stages] == [8, 8, 12, 16]
    assert torch.allclose(found["last4"], torch.cat([stage.mean(1) for stage in stages], 1), atol=1e-5)


def test_batches_do_not_matter():
    whole, parts = (extract({"target": FeatureExtractor(encoder(0))}, Loader(sizes), 7, LENS) for sizes in ([7], [3, 3, 1]))
    assert torch.allclose(whole.encoders["target"]["last4"], parts.encoders["target"]["last4"], atol=1e-5)


def test_large_images_are_shrunk_for_the_pixel_baseline_only():
    found = extract({}, Loader([2], side=64), 2, LENS)
    assert found.encoders["pixels"]["pixels"].shape == (2, 3 * 32 * 32)


def test_clips_as_pixels_keep_their_order_and_have_no_more_values_than_images():
    clips = torch.zeros(2, 3, 9, 64, 64, dtype=torch.uint8)
    clips[:, :, 8] = 255
    vectors = flatten_pixels(clips).unflatten(1, (3, 4, 16, 16))
    assert vectors[:, :, :3].max() == 0 and vectors[:, :, 3].min() == 1
    assert flatten_pixels(clips[:, :, :2, :8, :8]).shape == (2, 3 * 2 * 8 * 8)


def test_the_pixels_of_still_clips_are_those_of_the_image():
    images = Loader([3, 2], side=64)
    batches = [batch._replace(views=[batch.views[0][:, :, None].expand(-1, -1, 8, -1, -1)]) for batch in images]
    clips = DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)
    found = extract({}, clips, 5, LENS, still_clips=True).encoders["pixels"]["pixels"]
    assert found.shape == (5, 3 * 32 * 32) and torch.equal(found, extract({}, images, 5, LENS).encoders["pixels"]["pixels"])


def test_bf16_is_close_and_kept_in_fp32():
    lenses = LENS, LENS._replace(precision="bf16")
    exact, rounded = (extract({"target": FeatureExtractor(encoder(0))}, Loader([5]), 5, lens) for lens in lenses)
    assert rounded.encoders["target"]["last"].dtype == torch.float32
    assert torch.allclose(exact.encoders["target"]["last"], rounded.encoders["target"]["last"], atol=0.05)


def test_unlabeled_samples_are_refused():
    with pytest.raises(UserError, match="k0 to k1 has a label"):
        extract({}, Loader([2], labeled=False), 2, LENS)


def test_a_missing_sample_is_an_error():
    with pytest.raises(RuntimeError, match="2 of 3"):
        extract({}, Loader([2]), 3, LENS)
