"""Small random networks of transformers, in folders as transformers writes them, are the same networks when imported."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import jepa_pipeline._torchvision  # noqa: F401
from jepa_pipeline.commands.import_weights import import_weights
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.published import ImportSettings
from jepa_pipeline.config.views import IMAGENET_MEAN, IMAGENET_STD
from jepa_pipeline.models.backbone import Backbone
from jepa_pipeline.models.interface import BaseEncoder
from jepa_pipeline.models.weights import load_encoder, read_card

TOLERANCE = 1e-5
BLOCKS = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGES = {**BLOCKS, "image_size": 32, "patch_size": 8}
VIT = {**IMAGES, "intermediate_size": 40}
DINOV2 = {**IMAGES, "mlp_ratio": 2}
CLIPS = {**BLOCKS, "crop_size": 32, "patch_size": 8, "frames_per_clip": 4, "tubelet_size": 2, "mlp_ratio": 2.0}
PREDICTOR = {"pred_hidden_size": 12, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1, "pred_num_mask_tokens": 2}
NETWORKS = {
    "ijepa": ("IJepaModel", {**VIT, "layer_norm_eps": 1e-6}),
    "ijepa default eps": ("IJepaModel", VIT),
    "vjepa2": ("VJEPA2Model", {**CLIPS, **PREDICTOR}),
    "vjepa2 classifier": ("VJEPA2ForVideoClassification", {**CLIPS, **PREDICTOR, "num_pooler_layers": 1}),
    "vit": ("ViTModel", VIT),
    "vit no bias": ("ViTModel", {**VIT, "qkv_bias": False, "hidden_act": "gelu_new"}),
    "vit classifier": ("ViTForImageClassification", VIT),
    "dinov2": ("Dinov2Model", {**DINOV2, "layerscale_value": 0.7}),
    "dinov2 swiglu": ("Dinov2Model", {**DINOV2, "use_swiglu_ffn": True}),
    "dinov2 classifier": ("Dinov2ForImageClassification", DINOV2),
    "dinov2 registers": ("Dinov2WithRegistersModel", {**DINOV2, "num_register_tokens": 4}),
    "dinov2 registers swiglu": ("Dinov2WithRegistersModel", {**DINOV2, "num_register_tokens": 3, "use_swiglu_ffn": True}),
    "dinov3": ("DINOv3ViTModel", {**VIT, "num_register_tokens": 4}),
    "dinov3 gated": ("DINOv3ViTModel", {**VIT, "num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu"}),
    "dinov3 no bias": ("DINOv3ViTModel", {**VIT, "query_bias": False, "value_bias": False, "layer_norm_eps": 1e-6}),
    "dinov3 fewest biases": ("DINOv3ViTModel", {**VIT, "proj_bias": False, "mlp_bias": False}),
    "dinov3 gated fewest biases": (
        "DINOv3ViTModel",
        {**VIT, "mlp_bias": False, "use_gated_mlp": True, "hidden_act": "silu"},
    ),
    "vit of 1 channel": ("ViTModel", {**VIT, "num_channels": 1}),
    "dinov2 of 4 channels": ("Dinov2Model", {**DINOV2, "num_channels": 4}),
    "ijepa of 2 channels": ("IJepaModel", {**VIT, "num_channels": 2}),
    "vjepa2 of 4 channels": ("VJEPA2Model", {**CLIPS, **PREDICTOR, "in_chans": 4}),
    "dinov3 one bias": ("DINOv3ViTModel", {**VIT, "query_bias": False, "rope_theta": 50.0}),
}
ENCODERS = ("vit", "dinov2", "dinov2_with_registers", "vjepa2")
"""Attributes under which networks with a head keep their encoder."""


def make(name: str) -> nn.Module:
    """Return a random network whose norms, biases and tokens are away from their initial values."""
    class_name, values = NETWORKS[name]
    network_class = getattr(transformers, class_name)
    torch.manual_seed(3)
    network = network_class(network_class.config_class(**values)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


def write(folder: Path, network: nn.Module, newer: bool = False) -> Path:
    """Write a folder as transformers does; under the newer names, as it does for a network that was read under them."""
    network.save_pretrained(folder)  # pyright: ignore[reportCallIssue]
    if newer:
        save_file(network.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def change(folder: Path, drop: str | None = None, **tensors: torch.Tensor) -> Path:
    """Change the weights of a folder."""
    weights = load_file(folder / "model.safetensors")
    if drop is not None:
        del weights[drop]
    save_file(weights | tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def configure(folder: Path, **values: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def import_folder(folder: Path, name: str | None = None, given: ImportSettings | None = None) -> BaseEncoder:
    return load_encoder(import_weights(folder, name, out=folder.with_name("imported"), given=given))


def channels_of(name: str) -> int:
    values = NETWORKS[name][1]
    return values.get("num_channels", values.get("in_chans", 3))


def given_for(name: str) -> ImportSettings | None:
    """Return what an import must be told of images that are not RGB."""
    channels = channels_of(name)
    return None if channels == 3 else ImportSettings(mean=(0.5,) * channels, std=(0.25,) * channels, bits=16)


def input_of(name: str) -> torch.Tensor:
    """Return images or clips for a network."""
    return pixels_for(NETWORKS[name][1].get("frames_per_clip", 1), channels=channels_of(name))


def pixels_for(frames: int, side: int = 32, channels: int = 3) -> torch.Tensor:
    shape = (2, channels, frames, side, side) if frames > 1 else (3, channels, side, side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def tokens_of(network: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Return the last tokens of a network of transformers, or of the encoder in it."""
    network = next((getattr(network, name) for name in ENCODERS if hasattr(network, name)), network)
    if pixels.ndim == 5:
        return network(pixels.transpose(1, 2), skip_predictor=True).last_hidden_state
    return network(pixels).last_hidden_state


@torch.inference_mode()
def difference_to(theirs: torch.Tensor, encoder: BaseEncoder, pixels: torch.Tensor) -> float:
    """Return the largest difference of the tokens of the patches, and of the pooled features."""
    ours, pooled = encoder.intermediates(pixels, 1)[-1], encoder.pooled(pixels)
    prefix = theirs.shape[1] - ours.shape[1]  # the class token, then registers
    expected = theirs[:, 0] if prefix else theirs.mean(1)
    return max(float((ours - theirs[:, prefix:]).abs().max()), float((pooled - expected).abs().max()))


def difference(network: nn.Module, encoder: BaseEncoder, side: int = 32) -> float:
    pixels = pixels_for(encoder.config.frames, side, encoder.config.in_channels)
    return difference_to(tokens_of(network, pixels), encoder, pixels)


@pytest.mark.parametrize("newer", [False, True], ids=["older names", "newer names"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_of_transformers_is_the_same_network(tmp_path, name, newer):
    network, given, channels = make(name), given_for(name), channels_of(name)
    folder = write(tmp_path / "folder", network, newer)
    assert difference(network, import_folder(folder, given=given)) <= TOLERANCE
    if given is not None:
        card = read_card(tmp_path / "imported")
        assert (card.mean, card.std, card.bits) == (given.mean, given.std, 16)
        with pytest.raises(UserError, match=rf"images of {channels} channels?, but there are 3 of mean and 3 of std: give mean="):
            import_weights(folder, out=tmp_path / "other")


@pytest.mark.parametrize("name", ["dinov2 registers", "dinov3"])
def test_images_of_another_size_give_the_same_features(tmp_path, name):
    """Positions of the class token and of registers are not those of patches, which are interpolated or computed."""
    network = make(name)
    assert difference(network, import_folder(write(tmp_path / "folder", network)), side=48) <= TOLERANCE


def test_dinov3_pools_the_class_token_and_has_the_biases_of_queries_and_values(tmp_path):
    folder = write(tmp_path / "folder", make("dinov3"))
    encoder = import_folder(folder)
    assert isinstance(encoder, Backbone) and encoder.config.timm.endswith("_dinov3_qkvb")
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        mean = encoder.intermediates(pixels, 1)[-1].mean(1)
        assert (encoder.pooled(pixels) - mean).abs().max() > 0.1
    source = read_card(tmp_path / "imported").source
    assert source is not None and any("class token" in note and "timm itself pools patches" in note for note in source.notes)


def test_vjepa_2_has_the_positions_of_its_release(tmp_path):
    network = make("vjepa2")
    encoder = import_folder(write(tmp_path / "folder", network))
    card = read_card(tmp_path / "imported")
    assert encoder.config.positions == card.encoder.positions == "rope_tiled"  # pyright: ignore[reportAttributeAccessIssue]
    assert card.clip is not None and card.clip.fps == 4 and card.encoder.frames == 4
    other = type(encoder)(encoder.config.model_copy(update={"positions": "rope"})).eval()  # pyright: ignore[reportCallIssue]
    other.load_state_dict(encoder.state_dict())
    assert difference(network, other) > 1e-3  # the weights fit the other form as strictly


CONVERTER = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
OWN = {"image_processor_type": "BitImageProcessor", "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}


@pytest.mark.parametrize(
    ("name", "preprocessor", "mean", "std", "note"),
    [
        (
            "ijepa",
            CONVERTER,
            IMAGENET_MEAN,
            IMAGENET_STD,
            "not the converter's (0.5, 0.5, 0.5) and (0.5, 0.5, 0.5)",
        ),
        ("ijepa", OWN, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), None),
        ("ijepa", {}, IMAGENET_MEAN, IMAGENET_STD, "has no mean and std"),
        ("vit", CONVERTER, (0.5,) * 3, (0.5,) * 3, None),
        ("vit", {}, (0.5,) * 3, (0.5,) * 3, "has no mean and std"),
        ("dinov3", OWN, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), None),
    ],
)
def test_the_preprocessing_is_that_of_the_training(tmp_path, name, preprocessor, mean, std, note):
    folder = write(tmp_path / "folder", make(name))
    if preprocessor:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    import_folder(folder)
    card = read_card(tmp_path / "imported")
    assert (card.mean, card.std) == (mean, std) and card.source is not None
    assert any(note is not None and note in each for each in card.source.notes) == (note is not None)
    assert note is not None or not any("deviation" in each for each in card.source.notes)


def refuse(folder: Path, message: str, name: str | None = None) -> None:
    with pytest.raises(UserError, match=message):
        import_folder(folder, name)
    assert not folder.with_name("imported").exists()


def test_what_does_not_fit_is_one_sentence_and_nothing_is_written(tmp_path):
    vit, ijepa = write(tmp_path / "vit", make("vit")), write(tmp_path / "ijepa", make("ijepa"))
    refuse(vit, r"config.json of .*vit says model_type: vit, but .* for model_type: ijepa", "ijepa")
    refuse(vit / "model.safetensors", r"config.json of .* is missing, .* give the folder that holds both", "vit")
    refuse(configure(vit, hidden_act="tanh"), "hidden_act in config.json of .* is tanh, but only gelu, ")
    refuse(configure(vit, hidden_act="gelu", num_attention_heads=2, num_hidden_layers=2) / "nothing", "there is no ")
    refuse(change(vit, extra=torch.ones(2)), r"holds extra of shape \[2\], which is not a tensor of this network")
    newer = {"layers.0.mlp.fc1.weight": torch.ones(40, 24)}
    refuse(change(write(tmp_path / "both", make("vit")), **newer), "holds two tensors for blocks.0.mlp.fc1.weight of this network")
    key = "encoder.layer.1.attention.attention.key.weight"
    refuse(change(ijepa, drop=key), f"holds no {key}, which this network needs")
    refuse(change(ijepa, **{key: torch.ones(24, 24), "layernorm.bias": torch.ones(23)}), r"norm.bias in .* has the shape \[23\]")
    refuse(configure(ijepa, hidden_act="relu"), "hidden_act in .* is relu, but the MLPs of I-JEPA and V-JEPA 2 have gelu")
    dinov3 = write(tmp_path / "dinov3", make("dinov3"))
    refuse(configure(dinov3, hidden_act="silu"), "is silu and use_gated_mlp false, but DINOv3 in timm has silu in gated MLPs")
    key = "layer.0.attention.k_proj.bias"
    refuse(change(configure(dinov3, hidden_act="gelu"), **{key: torch.ones(24)}), "the keys of .* have biases")
    vjepa2 = write(tmp_path / "vjepa2", make("vjepa2"))
    refuse(configure(vjepa2, use_rope_interleave=True), r"is V-JEPA 2.1 \(use_rope_interleave in its config.json\)")
    refuse(configure(vjepa2, use_rope_interleave=False, crop_size=30), "image_size 30 is not a multiple of patch_size 8")


def test_biases_of_keys_that_are_zero_are_none(tmp_path):
    network = make("dinov3")
    folder = write(tmp_path / "folder", network)
    change(folder, **{f"layer.{block}.attention.k_proj.bias": torch.zeros(24) for block in range(2)})
    assert difference(network, import_folder(folder)) <= TOLERANCE


def prepare(folder: Path, **values: object) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps({**OWN, "image_processor_type": "ViTImageProcessor", **values}))
    return folder


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": False},
        {"rescale_factor": 1 / 127.5},
        {"do_rescale": False, "do_normalize": False},
        {"image_mean": 0.5, "image_std": 0.25},
    ],
)
def test_pixels_are_prepared_as_the_processor_prepares_them(tmp_path, values):
    """Whatever it leaves out or scales, and where one number counts for all channels."""
    folder = prepare(write(tmp_path / "folder", make("vit")), do_resize=False, **values)
    import_folder(folder)
    card = read_card(tmp_path / "imported")
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    theirs = transformers.ViTImageProcessor.from_pretrained(folder)(image, return_tensors="pt").pixel_values[0]  # pyright: ignore
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (card.mean, card.std))
    ours = (image.double() / 255 - mean) / std
    assert (ours - theirs).abs().max() <= TOLERANCE * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"image_std": [0, 1, 1]}, "image_std in .*preprocessor_config.json is .0, 1, 1., but it should be greater than 0"),
        ({"image_std": -1}, "image_std in .* is -1"),
        ({"image_std": [float("nan"), 1, 1]}, "image_std in "),
        ({"image_std": [float("inf"), 1, 1]}, "image_std in "),
        ({"image_mean": ["a", 1, 2]}, "image_mean in "),
        ({"image_mean": {"r": 1}}, "image_mean in "),
        ({"image_mean": [], "image_std": []}, "image_mean in "),
        ({"image_mean": [0.5], "image_std": [0.5]}, "takes images of 3 channels, but there are 1 of mean and 1 of std: give mean="),
        ({"image_std": None}, "has image_mean, but no image_std: give mean="),
        ({"do_normalize": "no"}, "do_normalize in "),
        ({"rescale_factor": 0}, "rescale_factor in "),
    ],
)
def test_a_processor_with_impossible_values_is_one_sentence(tmp_path, values, words):
    refuse(prepare(write(tmp_path / "folder", make("vit")), **values), words)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("vit", {"num_attention_heads": "2"}, 'num_attention_heads in .*config.json is "2", but it should be a valid integer'),
        ("vit", {"num_attention_heads": 0}, "num_attention_heads in "),
        ("vit", {"num_attention_heads": 5}, "num_attention_heads in .* is 5, but does not divide the width of 24"),
        (
            "dinov2",
            {"num_hidden_layers": 1},
            "says num_hidden_layers 1, but its weights show 2: copy the folder again, or correct it",
        ),
        ("vit", {"layer_norm_eps": "1e-6"}, "layer_norm_eps in "),
        ("vit", {"hidden_act": ["gelu"]}, "hidden_act in "),
        ("vjepa2", {"crop_size": [32, 48]}, "crop_size in "),
        ("vjepa2", {"frames_per_clip": 2.5}, "frames_per_clip in "),
        ("dinov3", {"image_size": {"height": 32}}, "image_size in "),
        ("dinov3", {"rope_theta": "a"}, "rope_theta in "),
        ("dinov2", {"use_swiglu_ffn": "false"}, "use_swiglu_ffn in "),
    ],
)
def test_values_of_another_kind_are_one_sentence(tmp_path, name, values, words):
    refuse(configure(write(tmp_path / "folder", make(name)), **values), words)


def test_tensors_without_the_axes_of_a_network_are_one_sentence(tmp_path):
    key = "encoder.layer.1.attention.attention.key.weight"
    for name, tensor in ((key, torch.ones(24, 23)), ("embeddings.patch_embeddings.projection.weight", torch.ones(24))):
        folder = change(write(tmp_path / "folder", make("vit")), **{name: tensor})
        refuse(folder, "do not have the shapes of vit")
    scalar = {"encoder.layer.0.intermediate.dense.weight": torch.tensor(1.0)}
    refuse(change(write(tmp_path / "folder", make("vit")), **scalar), "is a single number and no table")


def test_missing_heads_are_those_of_transformers(tmp_path):
    folder = write(tmp_path / "folder", make("ijepa"))
    values = json.loads((folder / "config.json").read_text())
    del values["num_attention_heads"]
    (folder / "config.json").write_text(json.dumps(values))
    assert import_folder(folder).config.size.num_heads == 12  # pyright: ignore[reportAttributeAccessIssue]
