"""`jepa export --to jepa`: any encoder as a folder of its own, and a stack cut down to any of its levels."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoders import CONFIGS, features_of_photo, make_run, run_card

from jepa_pipeline.commands.export import PARITY, check_parity, export
from jepa_pipeline.commands.probe import probe
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.interop.format import encoder_outputs
from jepa_pipeline.interop.read_back import compute
from jepa_pipeline.interop.timm_format import load_timm
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.stack import Stack
from jepa_pipeline.models.weights import hash_weights, load_encoder, read_card, save_weights

pytestmark = pytest.mark.usefixtures("exports_read_here")

STACKS = ["stack of images", "stack of clips"]
PROBE = {"workers": 0, "protocols": ["linear"], "weight_decay": [0.01], "iterations": 5}


def pixels_of(config):
    frames = (config.frames,) if config.modality.has_time else ()
    return torch.randn(2, 3, *frames, config.image_size, config.image_size)


@pytest.mark.parametrize("name", CONFIGS)
def test_any_encoder_is_the_same_when_loaded_again(tmp_path, name):
    run, config = make_run(tmp_path / "run", CONFIGS[name]), CONFIGS[name]
    out = export(run, to="jepa")
    assert out == run / "export" / "jepa" and check_parity(out, "jepa") <= 1e-6
    ours, theirs, pixels = load_encoder(run), load_encoder(out), pixels_of(config)
    assert type(theirs) is type(ours) and hash_weights(theirs) == hash_weights(ours) and read_card(out) == read_card(run)
    with torch.inference_mode():
        assert torch.equal(theirs(pixels), ours(pixels)) and torch.equal(theirs.pooled(pixels), ours.pooled(pixels))
    stored, text = load_file(out / "parity/outputs.safetensors"), (out / "README.md").read_text()
    assert set(stored) == {"pixels", "tokens", "pooled"} and stored["pixels"].ndim == pixels.ndim
    assert stored["pooled"].shape[1] == ours.width and f'vectors "B D" of width {ours.width}' in text
    assert "(0.1, 0.2, 0.3)" in text and "seed: 5" in text
    found = run_card(out)["features"]
    assert found.shape == (1, ours.width)
    if not config.modality.has_time:
        assert (found - features_of_photo(run, out)).abs().max() <= 1e-5
    assert ("B 3 T H W" in text) == (pixels.ndim == 5) and ("- video-feature-extraction" in text) == (pixels.ndim == 5)


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("level", [1, 2, 3, "all"])
def test_a_stack_is_cut_to_any_level(tmp_path, name, level):
    run, config = make_run(tmp_path / "run", CONFIGS[name]), CONFIGS[name]
    out = export(run, to="jepa", level=level)
    assert out.name == ("jepa" if level == "all" else f"jepa-level{level}")
    whole, part, pixels = load_encoder(run), load_encoder(out), pixels_of(config)
    assert type(part) is (Encoder if level == 1 else Stack)
    ours, theirs = whole.state_dict(), part.state_dict()
    prefix = "encoders.0." if level == 1 else ""
    assert all(torch.equal(ours[prefix + key], tensor) for key, tensor in theirs.items())
    kept = 3 if level == "all" else level
    assert len(theirs) == sum(key.startswith(tuple(f"encoders.{number}." for number in range(kept))) for key in ours)
    with torch.inference_mode():
        reading = whole.read_level(level)
        for found, expected in ((part(pixels), reading(pixels)), (part.pooled(pixels), reading.pooled(pixels))):
            assert (found - expected).abs().max() <= 1e-6
    stored = load_file(out / "parity/outputs.safetensors")
    with torch.inference_mode():
        assert (part.pooled(stored["pixels"]) - stored["pooled"]).abs().max() <= 1e-6
    if level not in (1, "all"):
        assert f"level {level} is read" in (out / "README.md").read_text()
        again = load_encoder(export(out, to="jepa", out=tmp_path / "lower", level=1))
        assert torch.equal(again.state_dict()["norm.weight"], ours["encoders.0.norm.weight"])


def test_the_first_level_of_images_is_a_network_of_timm(tmp_path):
    run = make_run(tmp_path / "run", CONFIGS["stack of images"])
    out = export(run, level=1)
    assert out == run / "export" / "timm-level1" and check_parity(out) <= 1e-5
    pixels = torch.randn(3, 3, 16, 16)
    with torch.inference_mode():
        tokens = load_encoder(run).read_level(1)(pixels)
        assert torch.allclose(load_timm(out).forward_features(pixels), tokens, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "level", "sentence"),
    [
        (
            "stack of images",
            None,
            r"is a stack of 3 levels \(its first level alone can be exported to timm: --level 1\): export it with --to onnx, torch or jepa, or load",
        ),
        (
            "stack of images",
            2,
            r"is a stack of 2 levels \(its first level alone can be exported to timm: --level 1\): export it with --to onnx, torch or jepa",
        ),
        ("stack of clips", "all", "is a stack of 3 levels: export it with --to onnx, torch or jepa"),
        ("stack of clips", 1, "which takes clips: export it with --to onnx, torch or jepa, or load"),
        ("rotary", 1, "has rotary positions .*: export it with --to onnx, torch or jepa, or load"),
        ("backbone", None, "has a small_stem, .*: export it with --to onnx, torch or jepa, or load"),
    ],
)
def test_what_timm_has_not_is_refused_with_the_other_format(tmp_path, name, level, sentence):
    run = make_run(tmp_path / "run", CONFIGS[name])
    with pytest.raises(UserError, match=sentence):
        export(run, level=level)
    assert not (run / "export").exists()


def test_a_spoilt_export_is_noticed(tmp_path):
    out = export(make_run(tmp_path / "run", CONFIGS["stack of clips"]), to="jepa", level=2)
    weights = load_file(out / "model.safetensors")
    weights["encoders.1.norm.bias"] += 1e-2
    save_weights(out, weights, read_card(out))
    with pytest.raises(
        UserError,
        match=r"nothing is exported, because jepa_pipeline gives features that differ from the encoder's by .*, more than 1e-05:",
    ):
        check_parity(out, "jepa")
    del weights["encoders.1.norm.bias"]
    save_weights(out, weights, read_card(out))
    with pytest.raises(UserError, match="is damaged or not the encoder"):
        check_parity(out, "jepa")


def test_an_exported_folder_is_probed_as_the_level_it_reads(tmp_path, videos):
    run = make_run(tmp_path / "run", CONFIGS["stack of clips"])
    config = ProbeConfig.model_validate(PROBE)
    own = {row.encoder: row.top1 for row in probe(run, videos, config=config)}
    for level, kept, twin in ((1, "target", "random_init"), (2, "level2", "random_init_level2")):
        out = export(run, to="jepa", level=level)
        rows = {row.encoder: row.top1 for row in probe(out, videos, config=config)}
        assert list(rows) == [kept, twin, "frames_shuffled", "frames_apart", "pixels"]
        assert (rows[kept], rows[twin]) == (own[f"level{level}"], own[f"random_init_level{level}"])
        assert len(list((out / "probes").glob("*.json"))) == 1


def test_the_card_has_the_numbers_of_its_level_alone(tmp_path, shards):
    run = make_run(tmp_path / "run", CONFIGS["stack of images"])
    probe(run, shards, config=ProbeConfig.model_validate(PROBE))
    text = (export(run, to="jepa", level=2) / "README.md").read_text()
    assert "| level2 | linear |" in text and "| random_init_level2 |" in text and "| pixels |" in text
    assert "level1 |" not in text and "levels |" not in text
    text = (export(run, to="jepa") / "README.md").read_text()
    assert "| level1 |" in text and "| levels |" in text and "the features of all levels are concatenated" in text


def test_a_process_of_its_own_reads_it_back(tmp_path, monkeypatch, exports_read_here):
    """Where what is only in this process does not help, such as a patch to a library."""
    out = export(make_run(tmp_path / "run", CONFIGS["stack of clips"]), to="jepa", level=2)
    assert json.loads((out / "config.json").read_text())["encoder"]["level"] == 2
    monkeypatch.undo()
    assert check_parity(out, "jepa") <= 1e-6
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda module, pixels: pixels)
    assert check_parity(out, "jepa") <= 1e-6
    (out / "model.safetensors").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"^nothing is exported, because jepa_pipeline cannot load the encoder: /.* is not what was written"
    ):
        check_parity(out, "jepa")


def scale_norm(encoder):
    encoder.norm.weight.mul_(1e4)


def sharpen_attention(encoder):
    """Attention that amplifies rounding is no reason to take another network for the same."""
    for block in encoder.blocks:
        block.attn.qkv.weight.mul_(30)


def change_seed(encoder):
    torch.manual_seed(1)
    for parameter in encoder.parameters():
        parameter.add_(1e-3 * torch.randn_like(parameter))


def change_activation(encoder):
    for block in encoder.blocks:
        block.mlp.act = torch.nn.GELU(approximate="tanh")


def change_epsilon(encoder):
    for norm in filter(lambda module: isinstance(module, torch.nn.LayerNorm), encoder.modules()):
        norm.eps = 1e-3


@torch.no_grad()
def stored_and_outputs(scaled, changed=None):
    """What is stored for an encoder whose values are scaled, and what another one computes."""
    torch.manual_seed(3)
    encoder = build_encoder(CONFIGS["images"]).eval()
    scaled(encoder)
    pixels = torch.randn(3, 3, 24, 24)
    stored = {"pixels": pixels, **encoder_outputs(encoder, pixels)}
    if changed is not None:
        changed(encoder)
    return stored, compute(lambda pixels: encoder_outputs(encoder, pixels), pixels)


def check(tmp_path, monkeypatch, stored, outputs, dtype="fp32"):
    (tmp_path / PARITY).parent.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in stored.items()}, tmp_path / PARITY)
    monkeypatch.setattr(sys.modules["jepa_pipeline.commands.export"], "read_back", lambda folder, format, here: outputs)
    return check_parity(tmp_path, "jepa", dtype)


@pytest.mark.parametrize("change", [change_seed, change_activation, change_epsilon])
@pytest.mark.parametrize("scale", [lambda encoder: None, scale_norm, sharpen_attention], ids=["plain", "norm", "attention"])
def test_another_network_is_never_the_same_encoder(tmp_path, monkeypatch, scale, change):
    with pytest.raises(UserError, match="gives features that differ from the encoder's by"):
        check(tmp_path, monkeypatch, *stored_and_outputs(scale, change))


def test_large_values_may_differ_by_the_digits_of_fp32(tmp_path, monkeypatch):
    stored, outputs = stored_and_outputs(scale_norm)
    largest = float(stored["tokens"].abs().max())
    assert largest > 1e4 and check(tmp_path, monkeypatch, stored, outputs) < 1e-6 * largest
    shifted = {name: output + 2e-6 * largest for name, output in outputs.items()}
    with pytest.raises(UserError, match="gives features that differ"):  # the pooled ones, which are smaller
        check(tmp_path, monkeypatch, stored, shifted)
    tokens_alone = {name: value for name, value in shifted.items() if "tokens" in name}
    assert check(tmp_path, monkeypatch, stored, tokens_alone) == pytest.approx(2e-6 * largest, rel=0.5)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_each_output_has_its_own_scale_and_must_be_finite(tmp_path, monkeypatch, dtype):
    stored = {"pixels": torch.zeros(1), "tokens": torch.full((1, 2), 600.0), "pooled": torch.ones(1, 2)}
    outputs = {"tokens": stored["tokens"], "pooled": stored["pooled"] + (0.5 if dtype == "fp16" else 1e-4)}
    with pytest.raises(UserError, match="gives features that differ"):
        check(tmp_path, monkeypatch, stored, outputs, dtype)
    infinite = {**stored, "tokens": torch.full((1, 2), torch.inf)}
    with pytest.raises(UserError, match="differ from the encoder's by inf"):
        check(tmp_path, monkeypatch, infinite, {"tokens": infinite["tokens"]}, dtype)
