"""Initial weights and mask tokens as published: V-JEPA 2 scales residual projections by depth, V-JEPA's mask tokens are zero."""

from math import sqrt

import pytest
import torch

from jepa_pipeline.batch import Masks
from jepa_pipeline.config.networks import EncoderConfig, PredictorConfig
from jepa_pipeline.config.stack import CoarseEncoderConfig, StrideConfig
from jepa_pipeline.models.coarse import build_coarse_encoder
from jepa_pipeline.models.dynamics import ForwardPredictor
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.predictor import Predictor

SIZES = {"embed_dim": 96, "depth": 3, "num_heads": 2}
CLIPS = {"image_size": 16, "patch_size": 4, "frames": 4, "tubelet_size": 2, **SIZES}
RESIDUAL = ("attn.proj.weight", "mlp.fc2.weight")


def encoder_config(positions="sincos", **fields):
    return EncoderConfig.model_validate({**CLIPS, "positions": positions, **fields})


BUILDERS = {
    "encoder": lambda **fields: Encoder(encoder_config(**fields)),
    "rotary encoder": lambda **fields: Encoder(encoder_config("rope", **fields)),
    "predictor": lambda **fields: Predictor(PredictorConfig(**SIZES, **fields), encoder_config("rope")),
    "forward predictor": lambda **fields: ForwardPredictor(PredictorConfig(**SIZES, **fields), encoder_config()),
    "level above": lambda **fields: build_coarse_encoder(
        CoarseEncoderConfig(stride=StrideConfig(space=2), **SIZES, **fields), encoder_config()
    ),
}


def build(name, **fields):
    torch.manual_seed(0)
    return BUILDERS[name](**fields).state_dict()


@pytest.mark.parametrize("std", [None, 0.02])
@pytest.mark.parametrize("name", BUILDERS)
def test_depth_scaling_divides_the_residual_projections_of_block_i_by_the_root_of_2i(name, std):
    plain, scaled = build(name, init_std=std), build(name, init_std=std, init_depth_scaling=True)
    expected = {
        f"blocks.{block}.{layer}": plain[f"blocks.{block}.{layer}"] / sqrt(2 * (block + 1))
        for block in range(3)
        for layer in RESIDUAL
    }
    assert plain.keys() == scaled.keys() > expected.keys()
    for key, weight in (plain | expected).items():
        assert torch.allclose(scaled[key], weight, rtol=1e-6, atol=0), key


def test_depth_scaled_deviations_are_the_measured_ones_of_v_jepa_2():
    weights = build("rotary encoder", init_std=0.02, init_depth_scaling=True)
    for layer in RESIDUAL:
        deviations = [weights[f"blocks.{block}.{layer}"].std().item() for block in range(3)]
        assert deviations == pytest.approx([0.0141, 0.0100, 0.0082], rel=0.03)


def make_predictor(**fields):
    torch.manual_seed(0)
    return Predictor(PredictorConfig(**SIZES, **fields), encoder_config(), mask_sets=2)


def test_mask_tokens_start_with_their_deviation():
    tokens = make_predictor().mask_token
    assert tokens.shape == (2, 1, 96) and tokens.std().item() == pytest.approx(0.02, rel=0.2)
    assert make_predictor(mask_token_std=0.5).mask_token.std().item() == pytest.approx(0.5, rel=0.2)
    zero = make_predictor(mask_token_std=0)
    assert not zero.mask_token.any() and zero.mask_token.requires_grad


def test_a_shared_mask_token_learns_from_every_mask_set():
    """As if each set had a token of its own with the same value, whose gradients are summed."""
    shared, own = make_predictor(shared_mask_token=True), make_predictor()
    assert shared.mask_token.shape == (1, 1, 96)
    own.load_state_dict(shared.state_dict() | {"mask_token": shared.mask_token.detach().expand(2, 1, 96)})
    contexts = [torch.randn(2, 5, 96), torch.randn(2, 7, 96)]
    masks = [Masks(torch.arange(k).expand(2, k), torch.arange(k, 32).expand(2, 1, -1)) for k in (5, 7)]
    predictions = shared(contexts, masks), own(contexts, masks)
    for first, second in zip(*predictions, strict=True):
        assert torch.equal(first, second)
    for found in predictions:
        sum(prediction.square().sum() for prediction in found).backward()
    assert torch.allclose(shared.mask_token.grad, own.mask_token.grad.sum(0, keepdim=True), rtol=1e-4)
    with pytest.raises(ValueError, match="zip"):
        shared(contexts[:1], masks[:1])
