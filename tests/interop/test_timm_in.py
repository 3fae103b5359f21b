"""Folders that timm writes, and weights for one of timm's names, are the same networks when imported."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import jepa_pipeline._torchvision  # noqa: F401
import timm
from jepa_pipeline.commands.import_weights import import_weights
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.interop import timm_sizes
from jepa_pipeline.models.interface import BaseEncoder
from jepa_pipeline.models.weights import load_encoder, read_card

VIT = {"depth": 2, "embed_dim": 24, "num_heads": 2, "patch_size": 8, "img_size": 32}
CHANNELS = {"in_chans": 4}
ALONE = {"class_token": False, "global_pool": "avg"}
NETWORKS = {
    "vit": ("vit_tiny_patch16_224", VIT),
    "vit mean": ("vit_tiny_patch16_224", {**VIT, **ALONE}),
    "ijepa": ("vit_tiny_patch16_224", {**VIT, **ALONE, "fc_norm": False}),
    "vit of 4 channels": ("vit_tiny_patch16_224", {**VIT, **CHANNELS}),
    "ijepa of 4 channels": ("vit_tiny_patch16_224", {**VIT, **ALONE, **CHANNELS, "fc_norm": False}),
    "resnet of 4 channels": ("resnet18", {"channels": (8, 8, 16, 16), **CHANNELS}),
    "dinov2": ("vit_small_patch14_reg4_dinov2", VIT),
    "dinov3": ("vit_small_patch16_dinov3_qkvb", VIT),
    "resnet": ("resnet18", {"channels": (8, 8, 16, 16)}),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 16)}),
}


def make(name: str, classes: int = 0) -> nn.Module:
    architecture, args = NETWORKS[name]
    torch.manual_seed(3)
    network = timm.create_model(architecture, num_classes=classes, **args).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return network


def write(folder: Path, name: str, classes: int = 0) -> nn.Module:
    network = make(name, classes)
    timm.models.save_for_hf(network, folder, model_args=NETWORKS[name][1], safe_serialization=True)
    return network


def read(source: Path, name: str | None = None) -> BaseEncoder:
    return load_encoder(import_weights(source, name, out=source.parent / "imported"))


@torch.inference_mode()
def difference(network: nn.Module, encoder: BaseEncoder) -> float:
    network.reset_classifier(0)  # pyright: ignore[reportCallIssue]
    side = encoder.config.image_size
    pixels = torch.randn(2, encoder.config.in_channels, side, side, generator=torch.Generator().manual_seed(1))
    pooled = (encoder.pooled(pixels) - network(pixels)).abs().max()
    features = (encoder.forward_features(pixels) - network.forward_features(pixels)).abs().max()  # pyright: ignore[reportCallIssue]
    return float(max(pooled, features))


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("vit mean", "ViT 24 x 2, patches of 8, 32x32"),
        ("ijepa", "ViT 24 x 2, patches of 8, 32x32"),
        ("resnet", "resnet18 with channels (8, 8, 16, 16), 224x224"),
    ],
)
def test_the_summary_tells_the_sizes_that_the_network_has(tmp_path, capsys, name, network):
    """Not those that a name of timm promises."""
    write(tmp_path / "folder", name)
    read(tmp_path / "folder")
    said = capsys.readouterr().out.splitlines()[0]
    assert f": {network}, " in said and "vit_tiny" not in said


def test_a_name_of_timm_is_said_with_what_differs():
    whole = BackboneConfig(timm="vit_small_patch16_224", args={"drop_path_rate": 0.1, "class_token": False})
    assert whole.describe() == "vit_small_patch16_224, 224x224"
    assert whole.model_copy(update={"args": {"depth": 6}}).describe() == "vit_small_patch16_224 with depth 6, 224x224"


@pytest.mark.parametrize("classes", [0, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_of_timm_is_the_same_network(tmp_path, name, classes):
    network = write(tmp_path / "folder", name, classes)
    assert difference(network, read(tmp_path / "folder")) <= 1e-5
    card, written = (
        read_card(tmp_path / "imported"),
        json.loads((tmp_path / "folder" / "config.json").read_text())["pretrained_cfg"],
    )
    assert card.mean == tuple(written["mean"]) and card.source is not None and card.source.family == "timm"


def test_patches_alone_are_an_encoder_that_a_jepa_can_train(tmp_path):
    write(tmp_path / "folder", "ijepa")
    config = read(tmp_path / "folder").config
    assert config == EncoderConfig(image_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, mlp_ratio=4.0)


def test_weights_for_a_name_of_timm(tmp_path):
    """With its tag, whose preprocessing differs; of any size that the name allows."""
    name = "vit_tiny_patch16_224"
    network = timm.create_model(name).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    encoder = read(tmp_path / "weights.safetensors", f"timm:{name}.augreg_in21k")
    card = read_card(tmp_path / "imported")
    assert difference(network, encoder) <= 1e-5 and card.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:vit_tiny_patch16_225", "timm has no network 'vit_tiny_patch16_225': did you mean vit_tiny_patch16_224"),
        ("timm:vit_tiny_patch16_224.mine", "timm has no weights mine of vit_tiny_patch16_224: choose augreg_in21k"),
        ("timm:vit_small_patch16_224", r"cls_token in .* has the shape \[1, 1, 24\], but in vit_small_patch16_224, 224x224 it is"),
        ("timm:", "--as timm does not say which: give --as timm:NAME"),
        ("timm", "does not say which network of timm it holds: .* or --as timm:NAME"),
    ],
)
def test_a_wrong_name_is_one_sentence(tmp_path, name, message):
    save_file(make("vit").state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=message):
        read(tmp_path / "weights.safetensors", name)
    assert not (tmp_path / "imported").exists()


PRETRAINED = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "vit_tiny"}, "timm has no network 'vit_tiny'"),
        ({"model_args": {**VIT, "norm_layer": None}}, r"cannot be created: args.norm_layer"),
        ({"model_args": {**VIT, "img_size": [32, 64]}}, "images of 32x64 pixels, but encoders here take squares"),
        ({"model_args": {**VIT, "depth": 3}}, r"lacks blocks.2.norm1.weight of shape \[24\]"),
        ({"model_args": [1]}, "model_args in .*config.json is .1., but it "),
        ({"model_args": {**VIT, "img_size": "32"}}, "img_size in .*config.json is '32', but it "),
        ({"model_args": {**VIT, "in_chans": 2.5}}, "in_chans in "),
        ({"pretrained_cfg": "x"}, "pretrained_cfg in "),
        ({"pretrained_cfg": PRETRAINED | {"std": [0, 1, 1]}}, "std in .*config.json is .0, 1, 1., but it should be greater than 0"),
        ({"pretrained_cfg": PRETRAINED | {"mean": 0.5}}, "mean in "),
        ({"pretrained_cfg": PRETRAINED | {"input_size": 32}}, "input_size in "),
        ({"pretrained_cfg": PRETRAINED | {"mean": [0.5]}}, "takes images of 3 channels, but there are 1 of mean and 3 of std"),
        ({"pretrained_cfg": PRETRAINED | {"classifier": 3}}, "classifier in "),
        ({"pretrained_cfg": PRETRAINED | {"crop_pct": "all"}}, "crop_pct in "),
        ({"pretrained_cfg": {"std": [1, 1, 1]}}, "mean of vit_tiny_patch16_224 is missing in config.json"),
    ],
)
def test_a_spoilt_folder_is_one_sentence(tmp_path, changes, message):
    write(tmp_path / "folder", "vit")
    path = tmp_path / "folder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        read(tmp_path / "folder")
    assert not (tmp_path / "imported").exists()


TABLES = [timm_sizes.VIT, timm_sizes.DINOV2, timm_sizes.DINOV2_SWIGLU, timm_sizes.DINOV3, timm_sizes.DINOV3_GATED]


@pytest.mark.parametrize("table", TABLES, ids=["vit", "dinov2", "dinov2 swiglu", "dinov3", "dinov3 gated"])
def test_published_sizes_get_timms_own_name_without_arguments(table):
    for name in table:
        with torch.device("meta"):
            network = timm.create_model(name, num_classes=0)
        weights = network.state_dict()
        hidden = len(weights.get("blocks.0.mlp.fc1_g.weight", weights.get("blocks.0.mlp.fc1.weight")))
        patch = weights["patch_embed.proj.weight"].shape[-1]
        sizes = timm_sizes.ViTSizes(
            patch, network.embed_dim, len(network.blocks), network.blocks[0].attn.num_heads, hidden / network.embed_dim
        )
        assert timm_sizes.name_sizes(table, sizes, hidden) == (name, {})
        assert timm_sizes.name_sizes(table, sizes._replace(depth=3), hidden) == (name, {"depth": 3})
