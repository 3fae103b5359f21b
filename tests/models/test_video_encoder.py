"""Encoders of clips: tubelets, positions, choices of tokens, and what of them is kept on disk."""

import math
from pathlib import Path

import pytest
import torch

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.interop.format import ExportRequest
from jepa_pipeline.interop.timm_format import check
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.rotary import rope_table
from jepa_pipeline.models.transformer import set_fused_attn
from jepa_pipeline.models.weights import EncoderCard, load_encoder, read_card, save_encoder

SIZES = {"image_size": 16, "patch_size": 4, "embed_dim": 48, "depth": 2, "num_heads": 2}
CLIPS = {**SIZES, "frames": 6, "tubelet_size": 2}
POSITIONS = ["sincos", "sincos_uniform", "rope", "rope_tiled"]
N = 3 * 4 * 4


def make(**fields):
    torch.manual_seed(0)
    return Encoder(EncoderConfig.model_validate(fields)).eval()


@pytest.fixture(params=POSITIONS)
def encoder(request):
    return make(**CLIPS, positions=request.param)


@pytest.fixture
def clip():
    return torch.randn(2, 3, 6, 16, 16, generator=torch.Generator().manual_seed(1))


def choices(rows, *lengths):
    generator = torch.Generator().manual_seed(3)
    return [torch.stack([torch.randperm(N, generator=generator)[:length] for _ in range(rows)]) for length in lengths]


@pytest.mark.parametrize(
    ("shape", "tokens"),
    [
        ((6, 16, 16), 48),
        ((4, 16, 16), 32),
        ((10, 16, 16), 80),
        ((6, 24, 8), 36),
        ((2, 20, 20), 25),
        ((1, 16, 16), 16),
        ((16, 16), 16),
    ],
)
def test_clips_and_images_of_any_size_and_length(encoder, shape, tokens):
    pixels = torch.randn(2, 3, *shape)
    output = encoder(pixels)
    assert output.shape == (2, tokens, 48) and output.isfinite().all()
    assert torch.allclose(encoder(pixels, masks=[torch.arange(tokens).expand(2, -1)])[0], output, atol=1e-5)


@pytest.mark.parametrize("positions", POSITIONS)
def test_an_encoder_of_images_may_have_any_positions(positions):
    encoder, pixels = make(**SIZES, positions=positions), torch.randn(2, 3, 16, 16)
    assert encoder(pixels).shape == (2, 16, 48) and encoder(torch.randn(2, 3, 8, 24)).shape == (2, 12, 48)
    assert torch.equal(encoder(pixels[:, :, None]), encoder(pixels))


def test_an_image_is_a_clip_of_one_time_step(encoder):
    image = torch.randn(2, 3, 16, 16)
    still = image[:, :, None]
    assert torch.equal(encoder(still), encoder(image))
    assert torch.equal(encoder(still.expand(-1, -1, 2, -1, -1)), encoder(image))


def test_without_positions_a_still_clip_is_an_image_repeated(encoder):
    if encoder.pos_embed is not None:
        encoder.pos_embed.zero_()
    else:
        encoder.rope.copy_(torch.cat([torch.zeros(N, 24), torch.ones(N, 24)], dim=1))
    image = torch.randn(2, 3, 16, 16)
    still = encoder(image[:, :, None].expand(-1, -1, 6, -1, -1))
    assert torch.allclose(still, encoder(image).repeat(1, 3, 1), atol=1e-5)


def test_a_tubelet_is_a_sum_over_its_pixels(clip):
    embed = make(**CLIPS).patch_embed
    weight, bias = embed.proj.weight, embed.proj.bias
    assert weight.shape == (48, 3, 2, 4, 4)
    slow = [
        (weight * clip[0, :, 2 * t : 2 * t + 2, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4]).sum((1, 2, 3, 4)) + bias
        for t in range(3)
        for r in range(4)
        for c in range(4)
    ]
    assert torch.allclose(embed(clip)[0], torch.stack(slow), atol=1e-5)


def test_a_shorter_clip_has_the_first_positions(encoder, clip):
    first = torch.arange(32).expand(2, -1)
    assert torch.allclose(encoder(clip[:, :, :4]), encoder(clip, masks=[first])[0], atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        (CLIPS, (5, 16, 16), "a clip of 5 frames is not a whole number of tubelets of 2 frames"),
        (CLIPS, (6, 18, 16), "18x16 pixels is not a whole number of 4x4 patches"),
        (SIZES, (2, 16, 16), "an image encoder was given a clip of 2 frames"),
    ],
)
def test_what_is_no_whole_number_of_tokens_is_refused(fields, shape, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)(torch.randn(1, 3, *shape))


@pytest.mark.parametrize("positions", ["rope", "rope_tiled"])
@pytest.mark.parametrize("grid", [(3, 4, 4), (2, 4, 4), (5, 4, 4), (3, 2, 3), (1, 6, 5)])
def test_each_size_and_length_has_its_own_angles(positions, grid):
    encoder = make(**CLIPS, positions=positions)
    _, rope = encoder.prepare_tokens(torch.zeros(1, 3, 2 * grid[0], 4 * grid[1], 4 * grid[2]))
    assert torch.equal(rope, rope_table(grid, 24, tiled=positions == "rope_tiled"))


def test_kept_tokens_are_those_of_a_full_pass_in_which_nothing_else_is_seen(encoder, clip):
    sets = choices(2, 9, 20)
    tokens, rope = encoder.prepare_tokens(clip)
    for index, kept in zip(sets, encoder(clip, masks=sets), strict=True):
        for sample in range(2):
            seen = torch.zeros(N, dtype=torch.bool)
            seen[index[sample]] = True
            x = tokens[sample : sample + 1]
            for block in encoder.blocks:
                x = block(x, attn_mask=seen[None, None, None, :], **({} if rope is None else {"rope": rope}))
            assert torch.allclose(kept[sample], encoder.norm(x)[0, index[sample]], atol=1e-5)


def test_patches_are_embedded_once_for_all_choices(encoder, clip):
    calls = []
    encoder.patch_embed.register_forward_hook(lambda *_: calls.append(1))
    first, second = choices(2, 9, 20)
    both = encoder(clip, masks=(first, second))
    assert len(calls) == 1 and [tokens.shape[1] for tokens in both] == [9, 20]
    assert torch.equal(both[1], encoder(clip, masks=[second])[0])


def test_intermediates_and_vectors_of_clips(encoder, clip):
    pooled, blocks = encoder.pooled_and_intermediates(clip, last=2)
    assert len(blocks) == encoder.depth == 2 and encoder.width == 48
    assert torch.equal(blocks[-1], encoder(clip)) and torch.equal(pooled, encoder.pooled(clip))
    assert not torch.allclose(blocks[0], blocks[1], atol=1e-2)
    assert torch.equal(encoder.intermediates(clip, last=1)[0], blocks[-1])


@pytest.mark.parametrize("head_dim", [24, 32, 64, 80])
@pytest.mark.parametrize("positions", ["rope", "rope_tiled"])
def test_both_ways_to_attend_agree_for_heads_of_any_width(head_dim, positions, clip):
    encoder = make(**{**CLIPS, "embed_dim": 2 * head_dim}, positions=positions)
    outputs = []
    for fused in (True, False):
        set_fused_attn(encoder, fused)
        assert {block.attn.fused_attn for block in encoder.blocks} == {fused}
        outputs.append(encoder(clip))
    assert torch.allclose(*outputs, atol=1e-5)


def test_positions_matter(encoder, clip):
    moved = clip.roll(2, dims=2)
    assert not torch.allclose(encoder(moved).view(2, 3, 16, 48).roll(-1, dims=1).flatten(1, 2), encoder(clip), atol=1e-2)


def test_state_has_the_published_names():
    blocks = {f"blocks.{i}.{name}.{kind}" for i in range(2) for kind in ("weight", "bias")
              for name in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}  # fmt: skip
    names = blocks | {"patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"}
    for fields in (SIZES, CLIPS):
        for positions in POSITIONS:
            assert set(make(**fields, positions=positions).state_dict()) == names | (
                {"pos_embed"} if positions.startswith("sincos") else set()
            )


@pytest.mark.parametrize("std", [None, 0.02])
def test_tubelets_begin_as_one_flat_layer(std):
    weight = make(**CLIPS, init_std=std).patch_embed.proj.weight
    if std is None:
        bound = math.sqrt(6 / (3 * 2 * 4 * 4 + 48))
        assert 0.98 * bound < weight.abs().max() <= bound
    else:
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)


CARD = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "name": "tiny", "method": "vjepa", "step": 3, "samples": 48}
HASHES = {"config_hash": "c" * 12, "data_hash": "d" * 12, "version": "0"}


def test_encoders_of_clips_are_saved_whole_and_say_which_frames_they_want(encoder, clip, tmp_path):
    card = EncoderCard(encoder=encoder.config, clip=ClipConfig(fps=7.5), **CARD, **HASHES)
    save_encoder(tmp_path, encoder, card)
    again = load_encoder(tmp_path)
    assert isinstance(again, Encoder) and torch.equal(again(clip), encoder(clip))
    saved = read_card(tmp_path)
    assert saved.sha256 is not None and saved == card.model_copy(update={"sha256": saved.sha256})
    assert saved.clip == ClipConfig(fps=7.5)
    spoilt = (tmp_path / "config.json").read_text().replace('"tubelet_size": 2', '"tubelet_size": 3')
    (tmp_path / "config.json").write_text(spoilt)
    with pytest.raises(UserError, match="not the encoder that"):
        load_encoder(tmp_path)


def test_a_card_without_clip_is_of_images():
    card = EncoderCard(encoder=EncoderConfig.model_validate(SIZES), **CARD, **HASHES)
    old = card.model_dump(mode="json")
    del old["clip"]
    assert EncoderCard.model_validate(old) == card and card.clip is None


def request(encoder):
    return ExportRequest(Path("runs/x"), encoder, EncoderCard(encoder=encoder.config, **CARD, **HASHES))


def test_timm_has_no_such_network(encoder):
    with pytest.raises(UserError, match=r"timm cannot load the encoder of runs/x, which takes clips: .*load_encoder\('runs/x'\)"):
        check(request(encoder))
    with pytest.raises(UserError, match=r"which has rotary positions \(rope\): export it with --to onnx, torch or jepa"):
        check(request(make(**SIZES, positions="rope")))
    check(request(make(**SIZES, positions="sincos_uniform")))
