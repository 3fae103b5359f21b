"""Published weights for images of other channels than RGB, and those whose positions are not those of their family."""

import pytest
import torch
from tiny_encoders import make_card

from jepa_pipeline.commands.export import export
from jepa_pipeline.commands.import_weights import import_weights
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.published import ImportSettings
from jepa_pipeline.interop import preprocessing
from jepa_pipeline.interop.folder_values import read_preprocessing
from jepa_pipeline.interop.published import Published
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.models.weights import load_encoder, read_card, save_encoder

SIZES = {"image_size": 12, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "in_channels": 4}
CLIP = {**SIZES, "frames": 4, "tubelet_size": 2}
OFFICIAL = {
    "ijepa": EncoderConfig(**SIZES),
    "vjepa": EncoderConfig(**CLIP, positions="sincos_uniform"),
    "vjepa2": EncoderConfig(**CLIP, positions="rope_tiled"),
}
STATISTICS = {"mean": (0.1, 0.2, 0.3, 0.4), "std": (0.5, 0.6, 0.7, 0.8)}


def noisy(config):
    torch.manual_seed(2)
    encoder = build_encoder(config).eval().requires_grad_(False)
    for parameter in encoder.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return encoder


def official(path, family, **changes):
    encoder = noisy(OFFICIAL[family])
    torch.save({"target_encoder": encoder.state_dict() | changes}, path)
    return encoder


def given(family, **values):
    frames = {} if family == "ijepa" else {"frames": 4}
    return ImportSettings(num_heads=2, image_size=12, **{**frames, **values})


def pixels_for(config):
    shape = (config.in_channels, *([config.frames] if config.frames > 1 else []), config.image_size, config.image_size)
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", OFFICIAL)
def test_the_first_kernel_shows_the_channels(tmp_path, family):
    encoder = official(tmp_path / "x.pt", family)
    with pytest.raises(UserError, match="takes images of 4 channels, but there are 3 of mean and 3 of std: give mean="):
        import_weights(tmp_path / "x.pt", family, out=tmp_path / "out", given=given(family))
    assert not (tmp_path / "out").exists()
    out = import_weights(tmp_path / "x.pt", family, out=tmp_path / "out", given=given(family, **STATISTICS, bits=16))
    card, pixels = read_card(out), pixels_for(encoder.config)
    assert (card.encoder.in_channels, card.mean, card.std, card.bits) == (4, *STATISTICS.values(), 16)
    assert (load_encoder(out)(pixels) - encoder(pixels)).abs().max() <= 1e-5


def run_of(folder, config, **values):
    """Write a run folder; return its encoder."""
    encoder = noisy(config)
    save_encoder(folder / "encoder", encoder, make_card(config, **(STATISTICS | values)))
    (folder / "config.yaml").write_text("name: tiny\n")
    return encoder


@pytest.mark.parametrize(
    "config",
    [OFFICIAL["ijepa"], BackboneConfig(timm="resnet10t", image_size=32, in_channels=4)],
    ids=["vit", "resnet"],
)
def test_an_export_to_timm_of_4_channels_comes_in_again(tmp_path, config):
    encoder = run_of(tmp_path / "run", config)
    out = import_weights(export(tmp_path / "run", to="timm"), out=tmp_path / "in")
    card, pixels = read_card(out), pixels_for(config)
    assert (card.encoder.in_channels, card.mean, card.std) == (4, *STATISTICS.values())
    with torch.inference_mode():
        assert (load_encoder(out).pooled(pixels) - encoder.pooled(pixels)).abs().max() <= 1e-5


def test_vjepa_has_its_fixed_table(tmp_path):
    """Otherwise a file of V-JEPA 2, which holds a table that its network does not use, would give other features."""
    encoder = official(tmp_path / "x.pt", "vjepa", pos_embed=torch.zeros(1, 18, 24))
    with pytest.raises(UserError, match="that V-JEPA has for clips of 4 frames: give --as vjepa2, or frames=N"):
        import_weights(tmp_path / "x.pt", "vjepa", out=tmp_path / "out", given=given("vjepa", **STATISTICS))
    assert not (tmp_path / "out").exists()
    official(tmp_path / "half.pt", "vjepa", pos_embed=encoder.state_dict()["pos_embed"].bfloat16())
    assert import_weights(tmp_path / "half.pt", "vjepa", out=tmp_path / "out", given=given("vjepa", **STATISTICS))


def test_what_timm_cannot_load_is_exported_to_transformers_where_that_can(tmp_path):
    rgb = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    run_of(tmp_path / "rgb", OFFICIAL["vjepa2"].model_copy(update={"in_channels": 3}), **rgb)
    with pytest.raises(UserError, match="which takes clips: export it with --to hf, onnx, torch or jepa"):
        export(tmp_path / "rgb", to="timm")
    run_of(tmp_path / "four", OFFICIAL["vjepa2"])
    with pytest.raises(UserError, match="which takes clips: export it with --to onnx, torch or jepa"):
        export(tmp_path / "four", to="timm")


@pytest.mark.parametrize(("bits", "largest"), [(8, 255), (16, 65535)])
def test_a_folder_that_scales_pixels_to_1_has_the_mean_and_std_that_it_names(tmp_path, bits, largest):
    """By the factor of its own bits: 1/255 of pixels of 16 bits is another scale."""
    published = Published(str(tmp_path), {}, {}, ImportSettings(bits=bits))
    for factor, scale in ((1 / largest, 1.0), (2 / largest, 2.0), (1 / 255, largest / 255)):
        values = {"do_rescale": True, "rescale_factor": factor, "image_mean": [0.5] * 4, "image_std": [0.25] * 4}
        found = read_preprocessing(published._replace(preprocessor=values), 4)
        assert found.scale == pytest.approx(scale)
        mean, std = found.fold(found.mean, found.std)
        assert mean == pytest.approx([0.5 / scale] * 4) and std == pytest.approx([0.25 / scale] * 4)


@pytest.mark.parametrize(("bits", "largest"), [(8, 255), (16, 65535)])
def test_the_description_of_an_encoder_has_its_bits(bits, largest):
    about = preprocessing.describe(make_card(OFFICIAL["ijepa"], **STATISTICS, bits=bits))
    assert (about["bits"], about["scale"]) == (bits, f"0..1: values over {largest}")
    assert (about["mean"], about["std"]) == ([*STATISTICS["mean"]], [*STATISTICS["std"]])
