"""An export is the same encoder in timm's hands, or there is no export."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import jepa_pipeline.models.timm_format as timm_format
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.export import check_parity, export
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.timm_format import load_timm
from jepa_pipeline.models.weights import EncoderCard, hash_weights, load_encoder, save_encoder
from jepa_pipeline.probes.report import ProbeReport, Row, save_report

SPELLED = EncoderConfig(image_size=24, patch_size=6, embed_dim=32, depth=3, num_heads=4, mlp_ratio=3.0)
NAMED = EncoderConfig(image_size=32, patch_size=8, arch="vit_tiny")


def make_run(folder: Path, config: EncoderConfig) -> Path:
    torch.manual_seed(3)
    encoder = Encoder(config)
    for parameter in encoder.parameters():  # norms and biases away from their ones and zeros
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    card = EncoderCard(
        encoder=config,
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        name="tiny",
        method="ijepa",
        step=3,
        samples=48,
        config_hash="c" * 12,
        data_hash="d" * 12,
        version="0",
    )
    save_encoder(folder / "encoder", encoder, card)
    (folder / "config.yaml").write_text("name: tiny\nseed: 5\n")
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path / "run", SPELLED)


@pytest.mark.parametrize("config", [SPELLED, NAMED], ids=["sizes", "arch"])
def test_timm_gives_the_same_tokens(tmp_path, config):
    run = make_run(tmp_path / "run", config)
    out = export(run)
    assert out == run / "export" / "timm"
    ours, theirs = load_encoder(run), load_timm(out)
    assert theirs.state_dict().keys() == ours.state_dict().keys()
    pixels = torch.randn(3, 3, config.image_size, config.image_size)
    with torch.inference_mode():
        assert torch.allclose(theirs.forward_features(pixels), ours(pixels), atol=1e-5)
        assert torch.allclose(theirs(pixels), ours(pixels).mean(1), atol=1e-5)
    assert check_parity(out) <= 1e-5


def test_plain_timm_loads_it_in_another_process(run):
    out = export(run)
    program = f"""
import jepa_pipeline._torchvision
import sys, timm, torch
from safetensors.torch import load_file
assert not [name for name in sys.modules if name.startswith("jepa_pipeline.") and name != "jepa_pipeline._torchvision"]
model = timm.create_model("local-dir:{out}", pretrained=True).eval()
stored = load_file("{out}/parity.safetensors")
with torch.inference_mode():
    assert (model.forward_features(stored["pixels"]) - stored["tokens"]).abs().max() < 1e-5
    assert (model(stored["pixels"]) - stored["pooled"]).abs().max() < 1e-5
data = timm.data.resolve_model_data_config(model)
assert (data["input_size"], data["crop_pct"], data["interpolation"]) == ((3, 24, 24), 1.0, "bicubic"), data
assert (tuple(data["mean"]), tuple(data["std"])) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), data
assert timm.create_model("local-dir:{out}", pretrained=True, num_classes=7)(stored["pixels"]).shape == (4, 7)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def nothing_written(run: Path) -> bool:
    return not any((run / "export").iterdir())


def test_a_tampered_weight_is_refused_and_leaves_nothing(run, monkeypatch):
    def tamper(weights, *args, **options):
        weights["blocks.1.attn.qkv.weight"] = weights["blocks.1.attn.qkv.weight"] + 1e-2
        save_file(weights, *args, **options)

    monkeypatch.setattr(timm_format, "save_file", tamper)
    with pytest.raises(UserError, match="more than 1e-05, so nothing is exported"):
        export(run)
    assert nothing_written(run)


@pytest.mark.parametrize("change", [lambda weights: weights.pop("norm.bias"), lambda weights: weights.update(extra=torch.ones(1))])
def test_a_missing_or_leftover_weight_is_refused_and_leaves_nothing(run, monkeypatch, change):
    def tamper(weights, *args, **options):
        change(weights)
        save_file(weights, *args, **options)

    monkeypatch.setattr(timm_format, "save_file", tamper)
    with pytest.raises(UserError, match="timm cannot load the exported encoder"):
        export(run)
    assert nothing_written(run)


def test_an_export_spoilt_later_is_noticed(run):
    out = export(run)
    weights = load_file(out / "model.safetensors")
    weights["norm.bias"] += float("nan")
    save_file(weights, out / "model.safetensors")
    with pytest.raises(UserError, match="differ"):
        check_parity(out)


def test_other_formats_and_taken_folders_are_refused(run, tmp_path):
    with pytest.raises(UserError, match="'onnx' is no format to export to: choose timm"):
        export(run, to="onnx")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        export(run, out=tmp_path / "taken")
    assert (tmp_path / "taken" / "thesis.tex").exists()


def test_the_card_tells_the_recipe_the_origin_and_the_numbers(run):
    row = Row(
        encoder="target",
        protocol="knn",
        settings={"features": "last", "k": 5},
        top1=0.8712,
        ci95=(0.86, 0.88),
        n_test=10000,
        seed=0,
        seconds=1.0,
    )
    for name, weights_hash in (("a", hash_weights(load_encoder(run))), ("stale", "0" * 64)):
        report = ProbeReport(
            data=name,
            data_hash={},
            config_hash="c" * 12,
            weights_hash=weights_hash,
            step=3,
            version="0",
            probe=ProbeConfig.model_validate({}),
            rows=[row],
            selection={},
        )
        save_report(run / "probes" / f"{name}.json", report)
    text = (export(run) / "README.md").read_text()
    assert "| a | target | knn | features last, k 5 | 87.12 | 86.00 - 88.00 | 10000 |" in text
    assert "stale" not in text
    for fact in ("seed: 5", "d" * 12, "| samples seen | 48 |", 'timm.create_model("local-dir:'):
        assert fact in text
    assert json.loads((run / "export" / "timm" / "config.json").read_text())["num_features"] == 32
