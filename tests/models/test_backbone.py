"""Networks of timm by name: features, tokens and sizes as promised, and mistakes refused in a sentence."""

import pytest
import torch
from torch import nn

import timm
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.models.backbone import Backbone
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.models.encoder import Encoder

VIT = {"depth": 3, "embed_dim": 24, "num_heads": 2, "patch_size": 4}
TINY = {
    "resnet": {"timm": "resnet18", "args": {"channels": [8, 8, 16, 16]}},
    "small stem": {"timm": "resnet18", "small_stem": True, "args": {"channels": [8, 8, 16, 16]}},
    "convnext": {"timm": "convnext_atto", "args": {"depths": [1, 1, 1, 1], "dims": [8, 16, 16, 16]}},
    "vit with class token": {"timm": "vit_tiny_patch16_224", "args": VIT},
    "vit without": {"timm": "vit_tiny_patch16_224", "args": {**VIT, "class_token": False, "global_pool": "avg"}},
}


def backbone(image_size=64, **fields):
    torch.manual_seed(0)
    return Backbone(BackboneConfig(image_size=image_size, **fields)).eval()


@pytest.fixture(params=TINY)
def network(request):
    return backbone(**TINY[request.param])


def test_features_are_timms_own_for_every_size_of_view(network):
    assert network.network.num_features == network.width
    for side in (64, 32):
        pixels = torch.randn(2, 3, side, side)
        features = network(pixels)
        assert features.shape == (2, network.width)
        maps = network.network.forward_features(pixels)
        assert torch.equal(features, network.network.forward_head(maps, pre_logits=True))
        assert torch.equal(features, network.pooled(pixels))


def test_intermediates_are_places_without_prefix_tokens(network):
    pixels = torch.randn(2, 3, 64, 64)
    pooled, blocks = network.pooled_and_intermediates(pixels, last=3)
    assert torch.allclose(pooled, network(pixels), atol=1e-6)
    if network.config.timm.startswith("vit"):
        assert [tuple(tokens.shape) for tokens in blocks] == 3 * [(2, 256, 24)]
        last = network.network.forward_features(pixels)[:, network.network.num_prefix_tokens :]
        if isinstance(network.network.norm, nn.Identity):  # timm norms after its pooling, where class tokens are not taken
            last = network.network.fc_norm(last)
        assert torch.allclose(blocks[-1], last, atol=1e-6)
        assert all(torch.allclose(tokens.mean(2), torch.zeros(2, 256), atol=1e-5) for tokens in blocks), "every block is normed"
    else:
        sides = (32, 16, 8) if network.config.small_stem else (8, 4, 2)
        assert [tokens.shape[1] for tokens in blocks] == [side**2 for side in sides]
        assert torch.allclose(blocks[-1].mean(1), network.network.forward_features(pixels).mean((2, 3)), atol=1e-6)
    with pytest.raises(ValueError, match=f"which has {network.depth}"):
        network.intermediates(pixels, last=network.depth + 1)


def test_all_of_it_is_trained(network):
    network.train()
    network(torch.randn(4, 3, 64, 64)).square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_timm_makes_the_same_network_from_its_arguments():
    for fields in (TINY["vit without"], TINY["convnext"]):
        ours = backbone(**fields)
        theirs = timm.create_model(ours.config.timm, num_classes=0, **ours.model_args).eval()
        theirs.load_state_dict(ours.network.state_dict(), strict=True)
        pixels = torch.randn(2, 3, 32, 32)
        assert torch.equal(theirs(pixels), ours(pixels))


def test_a_small_stem_keeps_the_image_at_full_size():
    network = backbone(image_size=32, **TINY["small stem"])
    assert [tokens.shape[1] for tokens in network.intermediates(torch.randn(1, 3, 32, 32), last=4)] == [1024, 256, 64, 16]
    assert isinstance(network.network.conv1, nn.Conv2d) and network.network.conv1.weight.shape == (64, 3, 3, 3)
    assert network.network.conv1.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


def test_making_one_leaves_its_statistics_and_mode_alone():
    network = Backbone(BackboneConfig(image_size=64, **TINY["resnet"]))
    assert network.training and network.network.training
    assert all(not norm.running_mean.any() for norm in network.modules() if isinstance(norm, nn.BatchNorm2d))


def test_it_fits_on_no_device_at_all():
    with torch.device("meta"):
        assert Backbone(BackboneConfig(timm="resnet50")).width == 2048


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"timm": "resnet81"}, "timm has no network 'resnet81': did you mean resnet18 or "),
        ({"timm": "hf-hub:timm/resnet18.a1_in1k"}, "no network 'hf-hub:timm/resnet18.a1_in1k': did you mean resnet18 or "),
        ({"timm": "?"}, "list_models"),
        (
            {"timm": "resnet18", "args": {"channls": 8}},
            "resnet18 has no argument 'channls': remove args.channls or correct its name",
        ),
        ({"timm": "poolformer_s12", "args": {"depth": 8}}, "poolformer_s12 has no argument 'depth': remove args.depth or"),
        (
            {"timm": "resnet18", "args": {"dynamic_img_size": True}},
            "resnet18 has no argument 'dynamic_img_size': remove args.dynamic_img_size or",
        ),
        ({"timm": "resnet18", "args": {"channels": "a"}}, r"args \{channels: a\} \(TypeError: not all.*\): fix the values"),
        ({"timm": "vit_tiny_patch16_224", "args": {"embed_dim": 25}}, "divisible by num_heads"),
        ({"timm": "vit_tiny_patch16_224", "args": {"global_pool": ""}}, r"returns \[1, 17, 192\] for an image and not one vector"),
        ({"timm": "vit_tiny_patch16_224", "image_size": 40}, "40x40 pixels is not a whole number of the 16x16 patches"),
        ({"timm": "convnext_atto", "image_size": 16}, "does not accept images of 16x16 pixels"),
        ({"timm": "resnet50d", "small_stem": True}, "the stem of resnet50d has several"),
        ({"timm": "convnext_atto", "small_stem": True}, "small_stem is for ResNets, but convnext_atto is none"),
    ],
)
def test_a_mistake_is_one_sentence(fields, message):
    with pytest.raises(UserError, match=message) as caught:
        Backbone(BackboneConfig.model_validate({"image_size": 64, **fields}))
    assert "\n" not in str(caught.value)


def test_a_view_that_is_no_whole_number_of_patches_is_refused():
    with pytest.raises(UserError, match="30x30 pixels"):
        backbone(**TINY["vit without"])(torch.randn(1, 3, 30, 30))
    with pytest.raises(UserError, match="30x30 pixels"):
        backbone(**TINY["vit without"]).check_image_size(30)


def test_networks_that_take_no_sizes_are_not_told_any():
    assert backbone(timm="poolformer_s12").model_args == {}


def test_either_kind_is_built_from_its_configuration_and_is_alike_to_use():
    vit = build_encoder(EncoderConfig(image_size=16, patch_size=4, embed_dim=24, depth=3, num_heads=2)).eval()
    assert isinstance(vit, Encoder) and (vit.width, vit.depth) == (24, 3)
    pixels = torch.randn(2, 3, 16, 16)
    pooled, blocks = vit.pooled_and_intermediates(pixels, last=2)
    assert torch.equal(pooled, vit.pooled(pixels)) and torch.equal(blocks[-1], vit(pixels)) and len(blocks) == 2
    assert isinstance(build_encoder(BackboneConfig(image_size=64, **TINY["resnet"])), Backbone)
