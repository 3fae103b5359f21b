"""The encoder is timm's ViT with tokens left out; the target is a slow average."""

import pytest
import torch

from jepa_pipeline.batch import Masks
from jepa_pipeline.config.networks import SIZES, EncoderConfig, PredictorConfig
from jepa_pipeline.models.ema import copy_frozen, update_ema
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.positions import sincos_2d
from jepa_pipeline.models.predictor import Predictor
from jepa_pipeline.models.tokens import apply_masks
from jepa_pipeline.models.transformer import set_fused_attn
from timm.models.vision_transformer import VisionTransformer

CONFIG = EncoderConfig(image_size=24, patch_size=4, embed_dim=32, depth=3, num_heads=4)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return Encoder(CONFIG).eval()


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))


def test_state_and_outputs_are_timms(encoder, pixels):
    twin = VisionTransformer(
        img_size=24,
        patch_size=4,
        embed_dim=32,
        depth=3,
        num_heads=4,
        class_token=False,
        global_pool="avg",
        fc_norm=False,
        num_classes=0,
    ).eval()
    twin.load_state_dict(encoder.state_dict(), strict=True)
    assert torch.allclose(twin.forward_features(pixels), encoder(pixels), atol=1e-6)


def test_keeping_all_tokens_in_any_order_changes_nothing(encoder, pixels):
    order = torch.stack([torch.randperm(36), torch.randperm(36)])
    assert torch.allclose(encoder(pixels, masks=[order])[0], apply_masks(encoder(pixels), order), atol=1e-5)


def test_what_is_not_kept_does_not_matter(encoder, pixels):
    keep = torch.arange(6).expand(2, 6)  # the first row of patches
    changed = pixels.clone()
    changed[:, :, 4:] = 0
    assert torch.equal(encoder(pixels, masks=[keep])[0], encoder(changed, masks=[keep])[0])


def test_intermediates_end_with_the_output(encoder, pixels):
    maps = encoder.intermediates(pixels, last=3)
    assert len(maps) == 3 and torch.equal(maps[-1], encoder(pixels))
    with pytest.raises(ValueError, match="cannot return the last 4 blocks: the encoder has 3"):
        encoder.intermediates(pixels, last=4)


def test_other_image_sizes_interpolate_positions(encoder):
    assert encoder(torch.randn(1, 3, 32, 40)).shape == (1, 80, 32)
    with pytest.raises(ValueError, match="26x24 pixels is not a whole number of 4x4 patches"):
        encoder(torch.randn(1, 3, 26, 24))


def test_positions_give_the_column_first():
    positions = sincos_2d((3, 5), 16).reshape(3, 5, 16)
    assert torch.equal(positions[0, :, :8], positions[2, :, :8])  # the first half does not hear of the row
    assert torch.equal(positions[:, 0, 8:], positions[:, 4, 8:])  # nor the second of the column
    assert torch.allclose(positions[0, 3, :4], torch.sin(3.0 * 10_000.0 ** (-torch.arange(4) / 4)))


@pytest.mark.parametrize(
    ("arch", "millions"), [("vit_tiny", 5.5), ("vit_small", 21.7), ("vit_base", 85.8), ("vit_large", 303.3), ("vit_huge", 630.8)]
)
def test_named_sizes_have_the_papers_parameters(arch, millions):
    with torch.device("meta"):
        encoder = Encoder(EncoderConfig(arch=arch, patch_size=16 if arch != "vit_huge" else 14))
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)
    assert arch in SIZES


def test_the_predictor_answers_each_block_by_itself():
    torch.manual_seed(0)
    predictor = Predictor(PredictorConfig(embed_dim=16, depth=2, num_heads=2), CONFIG).eval()
    context, where = torch.randn(2, 5, 32), torch.randint(36, (2, 5))
    targets = torch.randint(36, (2, 3, 4))
    (together,) = predictor([context], [Masks(where, targets)])
    assert together.shape == (2, 3, 4, 32)
    for block in range(3):
        (alone,) = predictor([context], [Masks(where, targets[:, block : block + 1])])
        assert torch.allclose(together[:, block], alone[:, 0], atol=1e-6)


def test_ema_is_the_formula_and_fp32(encoder):
    target = copy_frozen(encoder.bfloat16())
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in target.parameters())
    before = [p.clone() for p in target.parameters()]
    encoder = encoder.float()
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(torch.randn_like(p))
    update_ema(target, encoder, 0.9)
    for old, online, new in zip(before, encoder.parameters(), target.parameters(), strict=True):
        assert torch.allclose(new, 0.9 * old + 0.1 * online, atol=1e-6)
    after = [p.clone() for p in target.parameters()]
    update_ema(target, encoder, 1.0)
    assert all(torch.equal(old, new) for old, new in zip(after, target.parameters(), strict=True))


def test_both_ways_to_attend_agree(encoder, pixels):
    set_fused_attn(encoder, fused=True)
    fused = encoder(pixels)
    set_fused_attn(encoder, fused=False)
    assert torch.allclose(encoder(pixels), fused, atol=1e-5)
