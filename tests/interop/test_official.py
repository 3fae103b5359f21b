"""Official checkpoints of I-JEPA, V-JEPA, V-JEPA 2 and V-JEPA 2.1, made here in their layouts, become the encoders that they hold."""

import json
import zipfile
from math import pi

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from jepa_pipeline.commands.import_weights import import_weights
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.published import ImportSettings
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.weights import load_encoder, read_card
from jepa_pipeline.probes.evaluate import build_eval_loader

SIZES = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 4.0}
CLIP = {"image_size": 12, "frames": 4, "tubelet_size": 2}
CONFIGS = {
    "ijepa": EncoderConfig(image_size=12, **SIZES),
    "vjepa": EncoderConfig(positions="sincos_uniform", **CLIP, **SIZES),
    "vjepa2": EncoderConfig(positions="rope_tiled", **CLIP, **SIZES),
}
GIVEN = {
    "ijepa": ImportSettings(num_heads=2),
    "vjepa": ImportSettings(num_heads=2, frames=4),
    "vjepa2": ImportSettings(num_heads=2, frames=4, image_size=12),
}
TOKENS = {"ijepa": ["mask_token"], "vjepa": ["mask_tokens.0", "mask_tokens.1"], "vjepa2": [f"mask_tokens.{k}" for k in range(10)]}
PREFIXES = {"ijepa": "module.", "vjepa": "module.backbone.", "vjepa2": "module._orig_mod.backbone."}


def noisy(config, seed):
    """An encoder whose norms and biases are no ones and zeros."""
    torch.manual_seed(seed)
    encoder = Encoder(config).eval().requires_grad_(False)
    for parameter in encoder.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return encoder


def checkpoint(family, *, prefix=None, dtype=torch.float32, table=False):
    """The content of an official file, and its target encoder and context encoder."""
    target, online = noisy(CONFIGS[family], 1), noisy(CONFIGS[family], 2)
    prefix = PREFIXES[family] if prefix is None else prefix
    # released V-JEPA 2 files keep a table that the network does not use
    extra = {"pos_embed": torch.randn(1, 18, 24)} if table else {}
    states = {
        name: {prefix + key: value.to(dtype) for key, value in (encoder.state_dict() | extra).items()}
        for name, encoder in (("encoder", online), ("target_encoder", target))
    }
    predictor = {prefix + name: torch.zeros(1, 1, 8) for name in TOKENS[family]} | {prefix + "predictor_proj.bias": torch.zeros(24)}
    rest = {"opt": {"state": {}, "param_groups": [{"lr": 0.1}]}, "scaler": None, "epoch": 300, "loss": np.float64(0.25), "lr": 1e-3}
    return {**states, "predictor": predictor, **rest}, target, online


def pixels(family, batch=2):
    config = CONFIGS[family]
    shape = (3, config.frames) if config.modality.has_time else (3,)
    return torch.randn(batch, *shape, config.image_size, config.image_size, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("which", [None, "target_encoder", "encoder"])
def test_the_target_is_taken_unless_another_network_is_named(tmp_path, family, which):
    content, target, online = checkpoint(family)
    torch.save(content, tmp_path / "official.pth.tar")
    out = import_weights(
        tmp_path / "official.pth.tar", family, which=which, out=tmp_path / "out", license="mit", given=GIVEN[family]
    )
    card, x = read_card(out), pixels(family)
    wanted, other = (online, target) if which == "encoder" else (target, online)
    tokens = load_encoder(out)(x)
    assert (tokens - wanted(x)).abs().max() < 1e-5 < 1e-2 < (tokens - other(x)).abs().max()
    assert card.source is not None and card.source.network == (which or "target_encoder")
    assert card.kept == ("online" if which == "encoder" else "target")
    assert (card.source.family, card.source.license, card.source.dtype) == (family, "mit", "float32")
    assert card.source.path == "official.pth.tar" and card.name == "official"
    assert card.mean == (0.485, 0.456, 0.406) and card.encoder.model_dump() == wanted.config.model_dump()


def test_clips_have_the_rate_of_their_training(tmp_path):
    rates = {}
    for family in ("vjepa", "vjepa2"):
        torch.save(checkpoint(family)[0], tmp_path / f"{family}.pt")
        clip = read_card(import_weights(tmp_path / f"{family}.pt", family, out=tmp_path / family, given=GIVEN[family])).clip
        assert clip is not None
        rates[family] = (clip.stride, clip.fps)
    assert rates == {"vjepa": (4, None), "vjepa2": (None, 4)}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "backbone.module.", "module._orig_mod.module.backbone."])
def test_prefixes_of_wrappers_are_stripped(tmp_path, prefix):
    content, target, _ = checkpoint("ijepa", prefix=prefix)
    torch.save(content, tmp_path / "x.pth.tar")
    out = import_weights(tmp_path / "x.pth.tar", out=tmp_path / "out", given=GIVEN["ijepa"])  # recognized
    assert torch.equal(load_encoder(out)(pixels("ijepa")), target(pixels("ijepa")))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_type_of_the_weights_is_recorded(tmp_path, dtype):
    content, target, _ = checkpoint("ijepa", dtype=dtype)
    torch.save(content, tmp_path / "x.pth.tar")
    out = import_weights(tmp_path / "x.pth.tar", out=tmp_path / "out", given=GIVEN["ijepa"])
    source, encoder = read_card(out).source, load_encoder(out)
    assert source is not None and source.dtype == str(dtype).removeprefix("torch.")
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, target.state_dict()[name].to(dtype).float())


def test_the_table_of_vjepa2_is_dropped_there_and_only_there(tmp_path, capsys):
    content, target, _ = checkpoint("vjepa2", table=True)
    torch.save(content, tmp_path / "vitl.pt")
    with pytest.raises(UserError, match=r"cannot be determined: choose one with --as: ijepa .*, vjepa"):
        import_weights(tmp_path / "vitl.pt", out=tmp_path / "out", given=GIVEN["vjepa2"])
    out = import_weights(tmp_path / "vitl.pt", "vjepa2", out=tmp_path / "out", given=GIVEN["vjepa2"])
    x = pixels("vjepa2")
    assert (load_encoder(out)(x) - target(x)).abs().max() < 1e-5
    assert "dropped (not part of the encoder): pos_embed" in capsys.readouterr().out
    content, target, _ = checkpoint("vjepa")
    torch.save(content, tmp_path / "vjepa.pth.tar")
    kept = load_encoder(import_weights(tmp_path / "vjepa.pth.tar", "vjepa", out=tmp_path / "kept", given=GIVEN["vjepa"]))
    assert torch.equal(kept.state_dict()["pos_embed"], target.state_dict()["pos_embed"])


def test_vjepa2_is_imported_in_the_released_rotary_form(tmp_path):
    """The other form loads the weights as strictly and gives other features."""
    content, target, _ = checkpoint("vjepa2")
    torch.save(content, tmp_path / "vitl.pt")
    imported = load_encoder(import_weights(tmp_path / "vitl.pt", out=tmp_path / "out", given=GIVEN["vjepa2"]))  # recognized
    right = Encoder(CONFIGS["vjepa2"].model_copy(update={"positions": "rope"})).eval()
    right.load_state_dict(imported.state_dict(), strict=True)
    x = pixels("vjepa2")
    assert (imported(x) - target(x)).abs().max() < 1e-5 < 1e-3 < (right(x) - imported(x)).abs().max()


def test_what_no_tensor_shows_is_asked_for_or_said(tmp_path, capsys):
    content, *_ = checkpoint("vjepa2")
    torch.save(content, tmp_path / "vitl.pt")
    with pytest.raises(UserError, match=r"width of 24.*num_heads=N"):
        import_weights(tmp_path / "vitl.pt", "vjepa2", out=tmp_path / "out")
    source = read_card(import_weights(tmp_path / "vitl.pt", out=tmp_path / "out", given=ImportSettings(num_heads=2))).source
    assert source is not None and "frames=64 and image_size=64: published values, not in the file" in source.notes[0]
    assert source.notes[0] in capsys.readouterr().out


@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
def test_scalars_of_numpy_are_read_and_of_numpy_1_too(tmp_path, module):
    torch.save(checkpoint("ijepa")[0], tmp_path / "new.pth.tar")
    with zipfile.ZipFile(tmp_path / "new.pth.tar") as new, zipfile.ZipFile(tmp_path / "x.pth.tar", "w") as file:
        for name in new.namelist():
            content = new.read(name)
            if name.endswith("data.pkl"):
                assert content.count(b"cnumpy._core.multiarray\nscalar\n") == 1
                content = content.replace(b"cnumpy._core.multiarray\n", f"c{module}\n".encode())
            file.writestr(name, content)
    assert import_weights(tmp_path / "x.pth.tar", out=tmp_path / "out", given=GIVEN["ijepa"]).is_dir()


def test_a_network_alone_is_read_from_safetensors_too(tmp_path):
    target = noisy(CONFIGS["ijepa"], 1)
    save_file(target.state_dict(), tmp_path / "encoder.safetensors")
    torch.save({"state_dict": target.state_dict()}, tmp_path / "encoder.pt", _use_new_zipfile_serialization=False)
    for name in ("encoder.safetensors", "encoder.pt"):
        out = import_weights(tmp_path / name, out=tmp_path / f"out-{name}", given=GIVEN["ijepa"])
        source = read_card(out).source
        assert source is not None and source.network in ("model", "state_dict")
        assert torch.equal(load_encoder(out)(pixels("ijepa")), target(pixels("ijepa")))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_of_several_files_is_one_network(tmp_path, name):
    target, folder = noisy(CONFIGS["ijepa"], 1), tmp_path / "folder"
    folder.mkdir()
    state = {key: value.clone() for key, value in target.state_dict().items()}
    stem, suffix = name.split(".")
    parts = {f"{stem}-{number}-of-2.{suffix}": dict(list(state.items())[number::2]) for number in range(2)}
    for file, part in parts.items():
        (save_file if suffix == "safetensors" else torch.save)(part, folder / file)
    index = {"weight_map": {key: file for file, part in parts.items() for key in part}}
    (folder / f"{name}.index.json").write_text(json.dumps(index))
    out = import_weights(folder, out=tmp_path / "out", given=GIVEN["ijepa"])
    assert torch.equal(load_encoder(out)(pixels("ijepa")), target(pixels("ijepa")))
    (folder / min(parts)).unlink()
    with pytest.raises(UserError, match=r"names model-0-of-2|names pytorch_model-0-of-2"):
        import_weights(folder, out=tmp_path / "none", given=GIVEN["ijepa"])
    assert not (tmp_path / "none").exists()


# ---- V-JEPA 2.1 ----


def state_21(depth=12, patch=16, heads=2, dim=24, seed=0):
    """The tensors of a small network of V-JEPA 2.1, by their official names."""
    generator = torch.Generator().manual_seed(seed)

    def new(*shape):
        return 0.2 * torch.randn(*shape, generator=generator)

    state = {"patch_embed.proj.weight": new(dim, 3, 2, patch, patch), "patch_embed.proj.bias": new(dim)}
    state |= {"patch_embed_img.proj.weight": new(dim, 3, 1, patch, patch), "patch_embed_img.proj.bias": new(dim)}
    state |= {"img_mod_embed": new(1, 1, dim), "video_mod_embed": new(1, 1, dim)}
    for number in range(depth):
        shapes = {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim), "mlp.fc1": (4 * dim, dim), "mlp.fc2": (dim, 4 * dim)}
        for name, (rows, columns) in shapes.items():
            state |= {f"blocks.{number}.{name}.weight": new(rows, columns), f"blocks.{number}.{name}.bias": new(rows)}
        for name in ("norm1", "norm2"):
            state |= {f"blocks.{number}.{name}.weight": 1 + new(dim), f"blocks.{number}.{name}.bias": new(dim)}
    for number in range(4):
        state |= {f"norms_block.{number}.weight": 1 + new(dim), f"norms_block.{number}.bias": new(dim)}
    return state


def forward_21(state, clip, heads=2, patch=16, depth=12):
    """What V-JEPA 2.1 computes, written as the paper says it: complex rotations, one loop over the blocks."""

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def linear(x, name):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    image = clip.shape[2] == 1
    name, tubelet = ("patch_embed_img", 1) if image else ("patch_embed", 2)
    kernel, bias = state[f"{name}.proj.weight"], state[f"{name}.proj.bias"]
    volume = F.conv3d(clip, kernel, bias, stride=(tubelet, patch, patch))
    steps, rows, columns = volume.shape[2:]
    x = volume.flatten(2).transpose(1, 2) + state["img_mod_embed" if image else "video_mod_embed"]
    side = 256 // patch
    t, h, w = torch.meshgrid(torch.arange(steps), torch.arange(rows), torch.arange(columns), indexing="ij")
    axes = [t.flatten().double(), h.flatten() * (side - 1) / max(1, rows - 1), w.flatten() * (side - 1) / max(1, columns - 1)]
    head = x.shape[-1] // heads
    part = 2 * (head // 3 // 2)

    def rotate(channels):  # B heads N head
        rotated = []
        for number, positions in enumerate(axes):
            pairs = channels[..., number * part : (number + 1) * part].double().unflatten(-1, (-1, 2)).contiguous()
            angles = positions[:, None].double() * 10_000.0 ** -(torch.arange(part // 2).double() / (part / 2))
            turned = torch.view_as_complex(pairs) * torch.polar(torch.ones_like(angles), angles % (2 * pi))
            rotated.append(torch.view_as_real(turned).flatten(-2).float())
        return torch.cat([*rotated, channels[..., 3 * part :]], -1)

    for number in range(depth):
        block = f"blocks.{number}"
        q, k, v = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").chunk(3, -1)
        q, k, v = (part_.unflatten(-1, (heads, head)).transpose(1, 2) for part_ in (q, k, v))
        attention = (rotate(q) @ rotate(k).transpose(-1, -2) / head**0.5).softmax(-1) @ v
        x = x + linear(attention.transpose(1, 2).flatten(2), f"{block}.attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
    return norm(x, "norms_block.3")


@pytest.fixture(scope="module")
def imported_21(tmp_path_factory):
    folder = tmp_path_factory.mktemp("21")
    state, other = state_21(), state_21(seed=1)
    content = {"encoder": {f"module.backbone.{name}": tensor for name, tensor in other.items()}}
    content |= {"ema_encoder": {f"module.backbone.{name}": tensor for name, tensor in state.items()}, "target_encoder": other}
    torch.save(content, folder / "vjepa2_1_vitb_dist_vitG_384.pt")
    given = ImportSettings(num_heads=2, frames=4, image_size=32)
    return import_weights(folder / "vjepa2_1_vitb_dist_vitG_384.pt", out=folder / "out", given=given), state


@pytest.mark.parametrize("shape", [(4, 32, 32), (8, 32, 32), (2, 48, 80), (4, 16, 32), (1, 32, 32), (1, 64, 48)])
def test_vjepa21_computes_what_was_published_for_clips_and_images(imported_21, shape):
    folder, state = imported_21
    clip = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    assert (load_encoder(folder)(clip) - forward_21(state, clip)).abs().max() < 1e-5


def test_vjepa21_images_are_clips_of_one_frame(imported_21):
    encoder, image = load_encoder(imported_21[0]), torch.randn(2, 3, 32, 32)
    assert torch.equal(encoder(image), encoder(image[:, :, None]))
    assert encoder(image).shape == (2, 4, 24)


def test_vjepa21_is_evaluated_on_images_as_clips_of_one_frame(imported_21, shards):
    card = read_card(imported_21[0])
    loader = build_eval_loader(Shards(str(shards / "test")), card, ProbeConfig.model_validate({"workers": 0}), 1, 1, 0)
    assert next(iter(loader.load([[0, 1]]))).views[0].shape == (2, 3, 1, 32, 32)


def test_vjepa21_takes_the_average_and_says_so(imported_21):
    source = read_card(imported_21[0]).source
    assert source is not None and (source.network, source.family) == ("ema_encoder", "vjepa2.1")


def test_vjepa21_blocks_have_norms_of_their_own(imported_21):
    folder, state = imported_21
    encoder, clip = load_encoder(folder), torch.randn(1, 3, 4, 32, 32)
    blocks = encoder.intermediates(clip, 12)
    state = {**state, "norms_block.3.weight": state["norms_block.0.weight"], "norms_block.3.bias": state["norms_block.0.bias"]}
    assert (blocks[2] - forward_21(state, clip, depth=3)).abs().max() < 1e-5
