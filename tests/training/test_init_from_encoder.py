"""A run can begin with an encoder folder: that of a run, an export, or imported weights, also for inputs of another size."""

import json
import shutil

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from tiny_encoders import make_card

import jepa_pipeline._torchvision  # noqa: F401  # before timm
import timm
from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.config.encoder_card import Source, read_card
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.stack import StackConfig
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.models.fit_weights import fit_weights
from jepa_pipeline.models.positions import sincos
from jepa_pipeline.models.weights import load_encoder, save_encoder
from jepa_pipeline.training.checkpoint import load_latest
from jepa_pipeline.training.init_from import check_source, initialize
from jepa_pipeline.training.module import Pretraining

QUIET = Console(quiet=True)
SMALL = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
IMAGES = EncoderConfig(image_size=16, **SMALL)
CLIPS = EncoderConfig(image_size=16, frames=4, tubelet_size=2, **SMALL)
VIT = BackboneConfig(
    timm="vit_tiny_patch16_224", image_size=16, args={"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
)
STACK = StackConfig(
    **CLIPS.model_dump(exclude={"attention"}),
    attention="causal",
    above=[{"stride": {"time": 1, "space": 2}, "coarsening": "conv", "embed_dim": 16, "depth": 1, "num_heads": 2}],
)
SOURCE = Source(
    path="vith.pth.tar", sha256="a" * 64, family="ijepa", network="target_encoder", dtype="float32", license="CC BY-NC 4.0"
)
VIDEO = [
    "method.name=vjepa2",
    "method.masks=[{name: blocks, num_blocks: 2, scale: [0.2, 0.4], context_keep: 0.2, target_keep: 0.3}]",
    "optim={batch_size_global: 4, total_samples: 16, warmup_samples: 0}",
]
HEADS = "projector: {hidden: [8], out: 4}, predictor: {hidden: [8], out: 4}"
PAIRS = ["views.crops=[{count: 2}]"]


def written(folder, config, seed=0, change=lambda encoder: None, **values):
    """A folder with an encoder of these random weights, as published ones are imported."""
    torch.manual_seed(seed)
    encoder = build_encoder(config)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    change(encoder)
    statistics = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    origin = {"name": "published", "step": 0, "samples": 0, "config_hash": "", "data_hash": ""}
    save_encoder(folder, encoder, make_card(config, **statistics, **origin, **values))
    return folder


def as_timm(out, folder):
    """The encoder of a folder, which is written as timm's local folder."""
    out.mkdir()
    encoder = load_encoder(folder)
    save_file({name: tensor.contiguous() for name, tensor in encoder.timm_module().state_dict().items()}, out / "model.safetensors")
    config = encoder.timm_config()
    first = {"num_classes": 0, "input_size": (3, encoder.config.image_size, encoder.config.image_size)}
    config = {**config, "num_classes": 0, "pretrained_cfg": {**config["pretrained_cfg"], **first}}
    (out / "config.json").write_text(json.dumps(config))
    return encoder


def yaml_of(config):
    return json.dumps(config.model_dump(mode="json", exclude_none=True))


def encoder_key(config):
    return f"method.encoder={yaml_of(config)}"


def begin(config, told=None):
    """The method of a run that begins now, and the sentences that it was told with."""
    torch.manual_seed(config.seed)
    module = Pretraining(build_method(config.method), config.optim, config.views, config.seed)
    config.folder.mkdir(parents=True, exist_ok=True)
    told = [] if told is None else told
    assert initialize(module, config.init_from, config, told.append) == [], "the moments are new"
    return module.method, "\n".join(told)


def same(encoder, folder, but=()):
    kept = load_encoder(folder).timm_module().state_dict()
    own = encoder.timm_module().state_dict()
    return kept.keys() == own.keys() and all(torch.equal(kept[name], own[name]) for name in kept if name not in but)


METHODS = {
    "ijepa": (IMAGES, [encoder_key(IMAGES)], "predictor"),
    "shared target": (
        IMAGES,
        [encoder_key(IMAGES), "method.target=shared", "method.regularizer={name: vicreg, expander: {hidden: [8], out: 4}}"],
        "predictor, regularizer",
    ),
    "vjepa2": (CLIPS, [*VIDEO, encoder_key(CLIPS)], "predictor"),
    "byol": (VIT, [f"method={{name: byol, encoder: {yaml_of(VIT)}, {HEADS}}}", *PAIRS], "projector, predictor"),
    "resnet": (
        BackboneConfig(timm="resnet18", image_size=16),
        ["method={name: vicreg, encoder: {timm: resnet18, image_size: 16}, projector: {hidden: [8], out: 4}}", *PAIRS],
        "projector",
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_encoder_and_target_have_its_weights_and_all_else_is_new(tiny, tmp_path, name):
    architecture, overrides, new = METHODS[name]
    folder = written(tmp_path / "published", architecture, source=SOURCE)
    method, told = begin(tiny(*overrides, f"init_from={folder}"))
    fresh = tiny(*overrides, "name=fresh")
    torch.manual_seed(fresh.seed)
    untouched = build_method(fresh.method)
    (encoders,) = method.encoders_by_level()
    assert len(encoders) == (2 if name in ("ijepa", "vjepa2", "byol") else 1)
    assert all(same(encoder, folder) for encoder in encoders)
    inside = {id(tensor) for encoder in encoders for tensor in encoder.state_dict(keep_vars=True).values()}
    others = [key for key, tensor in method.state_dict(keep_vars=True).items() if id(tensor) not in inside]
    assert others and all(torch.equal(method.state_dict()[key], untouched.state_dict()[key]) for key in others)
    assert f"; {new} and the moments of the optimizer are new" in told
    assert "imported from vith.pth.tar (license CC BY-NC 4.0" in told


def test_a_killed_run_goes_on_without_the_folder(tiny, tmp_path):
    folder = written(tmp_path / "published", IMAGES, source=SOURCE)
    config = tiny(encoder_key(IMAGES), f"init_from={folder}", "optim.total_samples=32", "checkpoint.every_steps=2")
    run = pretrain(config, QUIET)
    whole = load_latest(run / "checkpoints", pytest.fail).state
    card = read_card(run)
    assert card.begun_from.startswith(f"{folder} (SHA-256 ") and "license CC BY-NC 4.0" in card.begun_from
    shutil.rmtree(folder)
    shutil.rmtree(run / "checkpoints/step-00000004")
    pretrain(config, QUIET)
    again = load_latest(run / "checkpoints", pytest.fail).state
    assert again["step"] == whole["step"] == 4
    assert all(torch.equal(whole["module"][name], again["module"][name]) for name in whole["module"])
    assert read_card(run) == card


def test_a_run_killed_before_its_first_checkpoint_begins_with_the_same(tiny, tmp_path):
    """Or with nothing, where the folder holds another encoder now."""
    folder = written(tmp_path / "published", IMAGES)
    config = tiny(encoder_key(IMAGES), f"init_from={folder}")
    first, _ = begin(config)
    second, _ = begin(config)
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())
    written(folder, IMAGES, seed=1)
    with pytest.raises(UserError, match=r"this run was initialized with .*published, whose SHA-256 is .*: copy it back, or delete"):
        begin(config)


@pytest.mark.parametrize("positions", ["sincos", "sincos_uniform", "rope", "rope_tiled"])
def test_positions_fit_clips_of_another_length_and_size(tiny, tmp_path, positions):
    saved = CLIPS.model_copy(update={"positions": positions})
    folder = written(tmp_path / "published", saved)
    larger = saved.model_copy(update={"image_size": 24, "frames": 8})
    method, told = begin(tiny(*VIDEO, encoder_key(larger), f"init_from={folder}"))
    assert same(method.target, folder, but=["pos_embed"])
    assert "a grid of 4x6x6 tokens in place of 2x4x4: " in told
    if "rope" in positions:
        assert method.encoder.pos_embed is None and "rotary positions fit any" in told
    else:
        assert torch.equal(method.encoder.pos_embed[0], sincos(larger, 24)) and "sine-cosine positions are computed anew" in told


def test_positions_that_were_trained_are_interpolated(tiny, tmp_path):
    """As timm does, in whose form the encoder is exported; on the same grid they are kept."""
    folder = written(tmp_path / "published", IMAGES, change=lambda encoder: torch.nn.init.normal_(encoder.pos_embed))
    config = tiny(encoder_key(IMAGES), f"init_from={folder}")
    assert same(begin(config)[0].encoder, folder)
    as_timm(tmp_path / "timm", folder)
    larger = tiny(encoder_key(IMAGES.model_copy(update={"image_size": 24})), f"init_from={folder}", "name=larger")
    method, told = begin(larger)
    ours = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True, img_size=24)
    assert torch.allclose(method.encoder.pos_embed, ours.pos_embed, atol=1e-6) and "interpolated as timm does" in told


TIMM = {
    "another size": (VIT, {"image_size": 24}, {"img_size": 24}),
    "other patches": (VIT, {"image_size": 32, "args": {**VIT.args, "patch_size": 8}}, {"img_size": 32, "patch_size": 8}),
    "windows of another size": (
        BackboneConfig(
            timm="swin_tiny_patch4_window7_224", image_size=28, args={"embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2)}
        ),
        {"image_size": 16},
        {"img_size": 16, "window_size": 4},
    ),
    "rotary positions": (
        BackboneConfig(timm="vit_small_patch16_dinov3", image_size=32, args={"embed_dim": 24, "depth": 1, "num_heads": 2}),
        {"image_size": 48},
        {"img_size": 48},
    ),
}


@pytest.mark.parametrize("name", TIMM)
def test_a_timm_network_is_fitted_as_timm_fits_its_own(tmp_path, name):
    """Trained positions, kernels and biases; the oracle is timm's loading of the exported folder."""
    saved, changes, arguments = TIMM[name]
    folder = written(tmp_path / "published", saved)
    encoder = as_timm(tmp_path / "timm", folder)
    if "window_size" in arguments:
        changes = {**changes, "args": {**saved.args, "window_size": arguments["window_size"]}}
    other = build_encoder(BackboneConfig(**{**saved.model_dump(), **changes}))
    fitted = fit_weights(encoder.network.state_dict(), saved, other)
    expected = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True, **arguments).state_dict()
    assert fitted.weights.keys() == expected.keys()
    assert all(torch.allclose(fitted.weights[key], expected[key], atol=1e-6) for key in expected)
    changed = [key for key in expected if expected[key].shape != encoder.network.state_dict()[key].shape]
    assert len(fitted.notes) == len(changed) and all(key in "\n".join(fitted.notes) for key in changed)


@pytest.mark.parametrize("channels", [1, 2, 4, 12])
@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_other_numbers_of_channels_are_fitted_as_timm_does(tmp_path, name, channels):
    saved = VIT if name == "vit" else BackboneConfig(timm=name, image_size=16)
    encoder = as_timm(tmp_path / "timm", written(tmp_path / "published", saved))
    other = build_encoder(saved)
    other.network = timm.create_model(saved.timm, num_classes=0, in_chans=channels, **other.model_args)
    fitted = fit_weights(encoder.network.state_dict(), saved, other)
    expected = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True, in_chans=channels).state_dict()
    assert all(torch.allclose(fitted.weights[key], expected[key], atol=1e-6) for key in expected)
    (note,) = fitted.notes
    rules = {1: "1 channel in place of 3: its kernels are summed", 2: "first 2 kernels are kept and scaled by 3/2"}
    assert rules.get(channels, f"its kernels are repeated in turn and scaled by 3/{channels}") in note


@pytest.mark.parametrize("channels", [1, 6])
def test_the_response_to_equal_channels_stays_the_same(channels):
    """Also of tubelets, whose kernels have a time axis that timm's function does not know."""
    there = build_encoder(CLIPS)
    here = build_encoder(CLIPS)
    here.patch_embed.proj = torch.nn.Conv3d(channels, 24, (2, 4, 4), stride=(2, 4, 4))
    here.load_state_dict(fit_weights(there.state_dict(), CLIPS, here).weights)
    gray = torch.rand(1, 1, 4, 16, 16)
    assert torch.allclose(there(gray.expand(-1, 3, -1, -1, -1)), here(gray.expand(-1, channels, -1, -1, -1)), atol=1e-5)


@pytest.mark.parametrize("saved", [IMAGES, CLIPS], ids=["images", "clips"])
def test_larger_patches_of_a_larger_input_give_the_same_tokens(saved):
    """Kernels resampled to twice the patch, on pixels enlarged as the resampling inverts it."""
    there, here = build_encoder(saved), build_encoder(saved.model_copy(update={"image_size": 32, "patch_size": 8}))
    fitted = fit_weights(there.state_dict(), saved, here)
    assert "patches of 8x8 pixels in place of 4x4" in fitted.notes[0] and len(fitted.notes) == 1, "the grid is the same"
    here.load_state_dict(fitted.weights)
    patch = torch.rand(3 * saved.tubelet_size, 1, 4, 4)  # a patch by itself, since the enlargement looks beyond its border
    large = torch.nn.functional.interpolate(patch, size=(8, 8), mode="bicubic", antialias=True)
    small, large = (image.reshape(1, 3, saved.tubelet_size, *image.shape[-2:]) for image in (patch, large))
    embeds = there.patch_embed.proj, here.patch_embed.proj
    tokens = [
        embed(pixels if embed.weight.ndim == 5 else pixels[:, :, 0]) for embed, pixels in zip(embeds, (small, large), strict=True)
    ]
    assert torch.allclose(*tokens, atol=1e-4)


LEVELS = (
    "method={name: hjepa, levels: [{encoder: {image_size: SIZE, patch_size: 4, frames: 4, tubelet_size: 2, attention: causal, embed_dim: 24, "
    "depth: 2, num_heads: 2}, predictor: {embed_dim: 16, depth: 1, num_heads: 2}, task: {name: masked, masks: [{name: blocks, num_blocks: "
    "2, scale: [0.2, 0.4], context_keep: 0.2, target_keep: 0.3}]}}, {encoder: {stride: {time: 1, space: 2}, coarsening: conv, "
    "embed_dim: 16, depth: 1, num_heads: 2}, predictor: {embed_dim: 16, depth: 1, num_heads: 2}, task: {name: forward}}]}"
)


@pytest.mark.parametrize("levels", [2, 1])
def test_a_stack_takes_the_levels_that_there_are(tiny, tmp_path, levels):
    saved = STACK if levels == 2 else STACK.first
    folder = written(tmp_path / "published", saved)
    method, told = begin(tiny(LEVELS.replace("SIZE", "24"), f"init_from={folder}"))
    kept = load_encoder(folder)
    for number, level in enumerate(method.jepas):
        known = ([*kept.encoders] if levels == 2 else [kept, None])[number]
        for encoder in (level.encoder, level.target):
            assert known is None or torch.equal(encoder.blocks[0].attn.qkv.weight, known.blocks[0].attn.qkv.weight)
    new = (
        "level 1's predictor, level 2's predictor" if levels == 2 else "level 1's predictor, level 2's encoder, level 2's predictor"
    )
    assert f"{new} and the moments" in told and "a grid of 2x6x6 tokens in place of 2x4x4" in told


def test_another_normalization_of_the_pixels_is_said(tiny, tmp_path):
    folder = written(tmp_path / "published", IMAGES)
    assert "warning" not in begin(tiny(encoder_key(IMAGES), f"init_from={folder}"))[1]
    config = tiny(encoder_key(IMAGES), f"init_from={folder}", "views={mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}", "name=second")
    assert "warning: that encoder was trained on pixels normalized with other values" in begin(config)[1]
    assert "'views.mean=[0.485, 0.456, 0.406]'" in check_source(folder, config, lambda: build_method(config.method))


def test_trained_positions_of_a_run_are_taken_too(tiny):
    """Not only from an encoder folder: those of a timm network are weights like any other."""
    byol = METHODS["byol"][1]
    first = pretrain(tiny(*byol, "optim.total_samples=8", "optim.warmup_samples=0", "name=first"), QUIET)
    config = tiny(*byol, f"init_from={first}", "name=second")
    module = Pretraining(build_method(config.method), config.optim, config.views, config.seed)
    config.folder.mkdir()
    (state,) = initialize(module, first, config, print)
    assert same(module.method.encoder, first) and state["state"]
    larger = tiny(*[text.replace('"image_size": 16', '"image_size": 24') for text in byol], f"init_from={first}", "name=third")
    module = Pretraining(build_method(larger.method), larger.optim, larger.views, larger.seed)
    larger.folder.mkdir()
    told = []
    (fewer,) = initialize(module, first, larger, told.append)
    assert same(module.method.encoder, first, but=["pos_embed"]) and "pos_embed is interpolated by timm" in told[1]
    assert (
        len(fewer["state"]) == len(state["state"]) - 1 and "the moments of 1 parameter whose shape has changed are new" in told[-1]
    )
