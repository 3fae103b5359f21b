"""Predictors of clips, and whole steps of encoder and predictor: bf16, determinism, compilation."""

import jaxtyping
import pytest
import torch

from jepa_pipeline.batch import Masks
from jepa_pipeline.config.networks import EncoderConfig, PredictorConfig
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.predictor import Predictor

CLIPS = {"image_size": 16, "patch_size": 4, "embed_dim": 48, "depth": 2, "num_heads": 2, "frames": 6, "tubelet_size": 2}
N = 3 * 4 * 4


@pytest.fixture(params=["sincos", "sincos_uniform", "rope", "rope_tiled"])
def encoder(request):
    torch.manual_seed(0)
    return Encoder(EncoderConfig.model_validate({**CLIPS, "positions": request.param})).eval()


@pytest.fixture
def clip():
    return torch.randn(2, 3, 6, 16, 16, generator=torch.Generator().manual_seed(1))


def make_predictor(config, mask_sets=1):
    torch.manual_seed(2)
    return Predictor(PredictorConfig(embed_dim=24, depth=2, num_heads=2), config, mask_sets).eval()


def sample_indices(rows, *lengths):
    generator = torch.Generator().manual_seed(3)
    return [torch.stack([torch.randperm(N, generator=generator)[:length] for _ in range(rows)]) for length in lengths]


def test_each_mask_set_has_its_own_token(encoder, clip):
    predictor = make_predictor(encoder.config, mask_sets=2)
    assert predictor.mask_token.shape == (2, 1, 24)
    contexts = sample_indices(2, 9, 20)
    masks = [Masks(where, target[:, None]) for where, target in zip(contexts, sample_indices(2, 12, 8), strict=True)]
    encoded = [tokens.detach() for tokens in encoder(clip, masks=contexts)]
    first, second = predictor(encoded, masks)
    assert first.shape == (2, 1, 12, 48) and second.shape == (2, 1, 8, 48)
    second.sum().backward()
    assert not predictor.mask_token.grad[0].any() and predictor.mask_token.grad[1].any()
    with pytest.raises(ValueError, match="zip"):
        predictor(encoded[:1], masks[:1])


def test_predictions_follow_the_order_of_their_masks(encoder):
    predictor = make_predictor(encoder.config)
    context, (where,), (target,) = torch.randn(2, 9, 48), sample_indices(2, 9), sample_indices(2, 12)
    (predictions,) = predictor([context], [Masks(where, target[:, None])])
    order, shuffled = torch.randperm(12), torch.randperm(9)
    (permuted,) = predictor([context], [Masks(where, target[:, None, order])])
    assert torch.allclose(permuted, predictions[:, :, order], atol=1e-5)
    (again,) = predictor([context[:, shuffled]], [Masks(where[:, shuffled], target[:, None])])
    assert torch.allclose(again, predictions, atol=1e-5)
    (elsewhere,) = predictor([context], [Masks(where, (target[:, None] + 1) % N)])
    assert not torch.allclose(elsewhere, predictions, atol=1e-3)


def test_target_blocks_do_not_attend_to_each_other(encoder):
    predictor = make_predictor(encoder.config)
    context, (where,) = torch.randn(2, 9, 48), sample_indices(2, 9)
    targets = torch.randint(N, (2, 3, 5))
    (all_blocks,) = predictor([context], [Masks(where, targets)])
    assert all_blocks.shape == (2, 3, 5, 48)
    for block in range(3):
        (one_block,) = predictor([context], [Masks(where, targets[:, block : block + 1])])
        assert torch.allclose(all_blocks[:, block], one_block[:, 0], atol=1e-6)


@pytest.mark.parametrize("positions", ["rope", "rope_tiled"])
def test_rope_predictions_depend_on_relative_positions_alone_but_tiled_ones_do_not(positions):
    """Move context and target down by one row."""
    config = EncoderConfig.model_validate({**CLIPS, "positions": positions})
    predictor, context = make_predictor(config), torch.randn(2, 4, 48)
    where, target = torch.tensor([[0, 3, 17, 38]]).expand(2, -1), torch.tensor([[[5, 7, 34]]]).expand(2, -1, -1)
    here, there = (predictor([context], [Masks(where + step, target + step)])[0] for step in (0, 4))
    assert torch.allclose(here, there, atol=1e-5) == (positions == "rope")


def train_step(encoder, predictor, clip):
    sets = sample_indices(2, 9, 20)
    predictions = predictor(encoder(clip, masks=sets), [Masks(index, index[:, None]) for index in sets])
    sum(prediction.square().mean() for prediction in predictions).backward()
    return [parameter.grad for network in (encoder, predictor) for parameter in network.parameters()]


def test_bf16_sums_in_fp32_and_steps_are_deterministic(encoder, clip):
    inside = []
    encoder.blocks[0].register_forward_hook(lambda *call: inside.append(call[2].dtype))
    predictor = make_predictor(encoder.config, mask_sets=2)
    predictor.blocks[0].register_forward_hook(lambda *call: inside.append(call[2].dtype))
    torch.use_deterministic_algorithms(True)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            gradients = [[g.clone() for g in train_step(encoder, predictor, clip)]]
            encoder.zero_grad(), predictor.zero_grad()
            gradients.append(train_step(encoder, predictor, clip))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert set(inside) == {torch.float32}
    exact = [g.clone() for g in (encoder.zero_grad(), predictor.zero_grad(), train_step(encoder, predictor, clip))[2]]
    assert all((a - b).norm() <= 0.05 * b.norm() for a, b in zip(gradients[0], exact, strict=True))


@pytest.mark.parametrize("shape", [(6, 16, 16), (4, 16, 16), (10, 24, 8), (16, 16)])
def test_the_host_never_waits_for_a_value(encoder, shape):
    """Tensors on the meta device have no values, so waiting for one raises an error."""
    encoder = encoder.to("meta")
    keep = [torch.zeros(2, 5, dtype=torch.int64, device="meta"), torch.zeros(2, 7, dtype=torch.int64, device="meta")]
    pixels = torch.zeros(2, 3, *shape, device="meta")
    contexts = encoder(pixels, masks=keep)
    predictions = make_predictor(encoder.config, mask_sets=2).to("meta")(contexts, [Masks(index, index[:, None]) for index in keep])
    assert [tuple(predictions.shape) for predictions in predictions] == [(2, 1, 5, 48), (2, 1, 7, 48)]


def test_encoder_and_predictor_compile_as_full_graphs(encoder, clip):
    predictor = make_predictor(encoder.config, mask_sets=2)
    eager = [g.clone() for g in train_step(encoder, predictor, clip)]
    longer = encoder(clip.repeat(1, 1, 2, 1, 1))
    encoder.zero_grad(), predictor.zero_grad()
    jaxtyping.config.update("jaxtyping_disable", True)  # shape checks cannot be compiled
    torch.compiler.reset()
    try:
        encoder.compile(backend="eager", fullgraph=True)
        predictor.compile(backend="eager", fullgraph=True)
        assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(train_step(encoder, predictor, clip), eager, strict=True))
        assert torch.allclose(encoder(clip.repeat(1, 1, 2, 1, 1)), longer, atol=1e-5)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
        torch.compiler.reset()
