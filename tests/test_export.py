"""An export is the same encoder in timm's hands, or there is no export."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_encoders import features_of_photo, make_run, run_card

import jepa_pipeline.interop.timm_format as timm_format
import timm
from jepa_pipeline.commands import export as exporting
from jepa_pipeline.commands.export import check_parity, export
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.data.views import center_view, normalize
from jepa_pipeline.interop.timm_format import LEAST_TIMM, load_timm
from jepa_pipeline.models.encoder import TIMM_ARCHITECTURES
from jepa_pipeline.models.weights import hash_weights, load_encoder, read_card, save_tensors
from jepa_pipeline.results.probe_report import ProbeReport, ProbeRow, save_report

pytestmark = pytest.mark.usefixtures("exports_read_here")

SPELLED = EncoderConfig(image_size=24, patch_size=6, embed_dim=32, depth=3, num_heads=4, mlp_ratio=3.0)
NAMED = EncoderConfig(image_size=32, patch_size=8, arch="vit_tiny")
VIT = {"depth": 2, "embed_dim": 24, "num_heads": 2, "patch_size": 4}
BACKBONES = {
    "resnet": BackboneConfig(timm="resnet18", image_size=48, args={"channels": (8, 8, 16, 16), "drop_path_rate": 0.1}),
    "convnext": BackboneConfig(timm="convnext_atto", image_size=64, args={"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 16)}),
    "class token": BackboneConfig(timm="vit_tiny_patch16_224", image_size=32, args=VIT),
    "mean": BackboneConfig(timm="vit_tiny_patch16_224", image_size=32, args={**VIT, "class_token": False, "global_pool": "avg"}),
}


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


@pytest.mark.parametrize("name", BACKBONES)
def test_timm_gives_the_same_features_of_its_own_networks(tmp_path, name):
    run = make_run(tmp_path / "run", BACKBONES[name])
    out = export(run)
    ours, theirs = load_encoder(run), load_timm(out)
    state = ours.network.state_dict()
    assert all(torch.equal(tensor, state.pop(name)) for name, tensor in theirs.state_dict().items()) and not state
    pixels = torch.randn(3, 3, 64, 64)  # of another size than the encoder's, as a view may be
    with torch.inference_mode():
        assert torch.equal(theirs(pixels), ours(pixels))
    classifier = timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=7)
    assert classifier(pixels[:, :, :48, :48] if name == "resnet" else pixels).shape == (3, 7)
    data = timm.data.resolve_model_data_config(theirs)
    side = BACKBONES[name].image_size
    assert (list(data["input_size"]), list(data["mean"]), list(data["std"])) == ([3, side, side], [0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert timm.data.create_transform(**data)(Image.new("RGB", (80, 70))).shape == (3, side, side)
    text = (out / "README.md").read_text()
    assert f"timm's {BACKBONES[name].timm} with " in text and f"features of width {ours.width}" in text
    assert f"timm's own pooling, {POOLING[name]}" in text and "vision transformer" not in text


POOLING = {
    "resnet": "avg: the mean over all patches or positions",
    "convnext": "avg: the mean over all patches or positions",
    "class token": "token: the class token",
    "mean": "avg: the mean over all patches or positions",
}


@pytest.mark.parametrize("name", ["sizes", *BACKBONES])
def test_the_code_of_the_card_runs(tmp_path, name):
    """As it is, for other sizes and as a pyramid of maps; the transform gives what a probe sees, to the digit."""
    config = {"sizes": SPELLED, **BACKBONES}[name]
    run = make_run(tmp_path / "run", config)
    out = export(run)
    found = run_card(out, without="transformers")
    first, larger, *_ = found["all features"]
    assert (first - features_of_photo(run, out)).abs().max() <= 1e-6
    assert (found["model"].forward_head(found["tokens"], pre_logits=True) - first).abs().max() <= 1e-6
    encoder, side = load_encoder(run), 2 * config.image_size
    pixels = torch.tensor(center_view(Image.open(out / "photo.jpg").convert("RGB"), side))[None]
    assert (larger - encoder.pooled(normalize(pixels, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))).abs().max() <= 1e-5
    assert found["maps"][-1].shape[:2] == (1, encoder.intermediates(pixels.float(), 1)[-1].shape[-1])
    assert ("flexible" in found) == (name not in ("resnet", "convnext"))


@pytest.mark.slow
def test_the_code_of_the_card_for_transformers_runs(tmp_path):
    run = make_run(tmp_path / "run", SPELLED)
    out = export(run)
    *_, found = run_card(out)["all features"]
    assert (found - features_of_photo(run, out)).abs().max() <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("version", [LEAST_TIMM, "1.0.20", "1.0.24", "1.0.28", ""], ids=lambda version: version or "newest")
def test_every_timm_since_the_least_loads_it(tmp_path, version):
    """With this torch, in an environment of its own; also the architectures that exports begin with are known to it."""
    place = tmp_path / "timm"
    requirement = f"timm=={version}" if version else "timm"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", str(place), "--no-deps", requirement], check=True)
    (tmp_path / "read.py").write_text(READ)
    for name, config in {"sizes": SPELLED, **BACKBONES}.items():
        export(make_run(tmp_path / name, config))
    folders = [str(tmp_path / name / "export/timm") for name in ("sizes", *BACKBONES)]
    environment = {**os.environ, "PYTHONPATH": f"{place}:{Path(__file__).parents[1]}"}
    command = [sys.executable, str(tmp_path / "read.py"), str(place), *TIMM_ARCHITECTURES.values(), *folders]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stdout)


READ = """
import sys
from pathlib import Path

import jepa_pipeline._torchvision
import timm, torch
from safetensors.torch import load_file

assert Path(timm.__file__).is_relative_to(sys.argv[1]), timm.__file__
for word in sys.argv[2:]:
    if "/" not in word:
        assert timm.is_model(word), word
        continue
    stored = load_file(f"{word}/parity/outputs.safetensors")
    model = timm.create_model(f"local-dir:{word}", pretrained=True).eval()
    with torch.inference_mode():
        outputs = {"forward_features": model.forward_features(stored["pixels"]), "forward": model(stored["pixels"])}
    difference = max(float((outputs[name] - stored[name]).abs().max()) for name in outputs)
    print(timm.__version__, word.split("/")[-3], difference)
    assert difference <= 1e-5
    timm.data.create_transform(**timm.data.resolve_model_data_config(model))
"""


def test_a_small_stem_is_refused_with_the_other_way(tmp_path):
    run = make_run(
        tmp_path / "run", BackboneConfig(timm="resnet18", image_size=32, small_stem=True, args={"channels": (8, 8, 8, 8)})
    )
    with pytest.raises(
        UserError, match=r"has a small_stem, which no argument of timm's resnet18 creates: .*load_encoder\('.*run'\)"
    ):
        export(run)
    assert not (run / "export").exists() and load_encoder(run).network.maxpool is not None


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"timm": "resnet18", "image_size": 0}, "encoder.BackboneConfig.image_size: Input should be greater than or equal to 1"),
        ({"timm": "resnet18", "patch_size": 4}, "encoder.BackboneConfig.patch_size: Extra inputs are not permitted"),
        ({"arch": "vit_tiny", "patch": 4}, "encoder.EncoderConfig.patch: Extra inputs are not permitted"),
        (3, "encoder.EncoderConfig: Input should be an object"),
    ],
)
def test_a_spoilt_card_is_named_in_a_sentence(run, encoder, message):
    path = run / "encoder" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "encoder": encoder}))
    with pytest.raises(UserError, match=message):
        read_card(run)


def test_a_card_without_kept_is_of_the_target(run):
    path = run / "encoder" / "config.json"
    old = json.loads(path.read_text())
    assert old.pop("kept") == "target"
    path.write_text(json.dumps(old))
    assert read_card(run).kept == "target"


def test_plain_timm_loads_it_in_another_process(run):
    out = export(run)
    program = f"""
import jepa_pipeline._torchvision
import sys, timm, torch
from safetensors.torch import load_file
ours = {{name for name in sys.modules if name.startswith("jepa_pipeline.")}}
assert ours <= {{"jepa_pipeline._torchvision", "jepa_pipeline.version"}}, ours
model = timm.create_model("local-dir:{out}", pretrained=True).eval()
stored = load_file("{out}/parity/outputs.safetensors")
with torch.inference_mode():
    assert (model.forward_features(stored["pixels"]) - stored["forward_features"]).abs().max() < 1e-5
    assert (model(stored["pixels"]) - stored["forward"]).abs().max() < 1e-5
data = timm.data.resolve_model_data_config(model)
assert (data["input_size"], data["crop_pct"], data["interpolation"]) == ((3, 24, 24), 1.0, "bicubic"), data
assert (tuple(data["mean"]), tuple(data["std"])) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), data
assert timm.create_model("local-dir:{out}", pretrained=True, num_classes=7)(stored["pixels"]).shape == (4, 7)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_network_that_only_this_process_knows_is_read_back_in_it(tmp_path, monkeypatch, capsys):
    @timm.models.register_model
    def known_here_only(pretrained=False, **arguments):
        return timm.create_model("resnet10t", pretrained=pretrained, **arguments)

    asked, read_back = [], exporting.read_back
    monkeypatch.setattr(exporting, "read_back", lambda *arguments: asked.append(arguments[-1]) or read_back(*arguments))
    export(make_run(tmp_path / "run", BackboneConfig(timm="known_here_only", image_size=32, args={"channels": (8, 8, 8, 8)})))
    export(make_run(tmp_path / "plain", SPELLED))
    assert asked == [True, False]
    assert capsys.readouterr().out.count(f"because only {__name__} registers its network; import that module before loading") == 1


def nothing_written(run: Path) -> bool:
    return not any((run / "export").iterdir())


def test_a_tampered_weight_is_refused_and_leaves_nothing(run, monkeypatch):
    def tamper(path, weights):
        weights["blocks.1.attn.qkv.weight"] = weights["blocks.1.attn.qkv.weight"] + 1e-2
        save_tensors(path, weights)

    monkeypatch.setattr(timm_format, "save_tensors", tamper)
    with pytest.raises(UserError, match=r"nothing is exported, because timm gives features that differ .*, more than 1e-05:"):
        export(run)
    assert nothing_written(run)


@pytest.mark.parametrize("change", [lambda weights: weights.pop("norm.bias"), lambda weights: weights.update(extra=torch.ones(1))])
def test_a_missing_or_leftover_weight_is_refused_and_leaves_nothing(run, monkeypatch, change):
    def tamper(path, weights):
        change(weights)
        save_tensors(path, weights)

    monkeypatch.setattr(timm_format, "save_tensors", tamper)
    with pytest.raises(UserError, match="nothing is exported, because timm cannot load the encoder"):
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
    with pytest.raises(UserError, match=r"cannot export to 'coreml': choose timm \(for images, as timm reads it\), "):
        export(run, to="coreml")
    with pytest.raises(UserError, match="cannot export to timm as fp16: choose --dtype fp32"):
        export(run, dtype="fp16")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        export(run, out=tmp_path / "taken")
    assert (tmp_path / "taken" / "thesis.tex").exists()


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
@pytest.mark.parametrize("to", ["timm", "jepa"])
def test_every_file_has_the_permissions_that_the_umask_leaves(tmp_path, to, mask):
    before = os.umask(mask)
    try:
        run = make_run(tmp_path / "run", SPELLED)
        export(run, to=to)
    finally:
        os.umask(before)
    files = [path for path in run.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"config.json", "config.yaml", "model.safetensors", "README.md", "outputs.safetensors"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~mask}


def test_the_folder_holds_no_second_file_that_timm_could_take_for_the_weights(run):
    """timm 1.0.16 to 1.0.28 fail with two files of one of these suffixes, and prefer the last suffix."""
    out = export(run)
    found = [path.name for suffix in (".safetensors", ".pth", ".pth.tar", ".bin") for path in out.glob(f"*{suffix}")]
    assert found == ["model.safetensors"]
    assert "loads with 1.0.16 or newer" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "recipe", "sentence"),
    [
        ({}, True, "Pretrained without labels by ijepa with jepa_pipeline 0, from untrained weights."),
        ({}, False, "According to its card, pretrained without labels by ijepa with jepa_pipeline 0."),
        (
            {"begun_from": "runs/a"},
            True,
            "Pretrained without labels by ijepa with jepa_pipeline 0, starting from the weights of runs/a.",
        ),
        ({"step": 0, "samples": 0, "begun_from": "vit.pth"}, False, "did not train these weights: they are from vit.pth."),
        ({"step": 0, "samples": 0}, False, "did not train these weights: its card does not say where they are from."),
    ],
)
def test_the_card_says_how_the_encoder_came_to_be(run, changes, recipe, sentence):
    path = run / "encoder" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    if not recipe:
        (run / "config.yaml").unlink()
    text = (export(run) / "README.md").read_text()
    assert sentence in text and ("untrained" in text) == sentence.endswith("untrained weights.")
    assert ("| starting from |" in text) == ("begun_from" in changes)


def test_the_card_tells_the_recipe_the_origin_and_the_numbers(run):
    row = ProbeRow(
        encoder="target",
        protocol="knn",
        settings={"features": "last", "k": 5, "selection_top1": 0.4603174603174603},
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
    assert "| a | target | knn | features last, k 5, selection_top1 0.4603 | 87.12 | 86.00 - 88.00 | 10000 |" in text
    assert "stale" not in text
    for fact in ("seed: 5", "d" * 12, "| samples seen | 48 |", 'timm.create_model(f"local-dir:'):
        assert fact in text
    assert json.loads((run / "export" / "timm" / "config.json").read_text())["num_features"] == 32
